{{/* Files of Envoy's secrets: a new certificate is followed without a restart. */}}
{{- define "loramux.envoy.authority" -}}
# Whose certificates the servers have{{ if .Values.tls.mutual }}, and the clients{{ end }}.
resources:
  - "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret
    name: authority
    validation_context:
      trusted_ca: {filename: /etc/loramux-tls/{{ .Values.router.upstreamTLS.caKey }}}
      watched_directory: {path: /etc/loramux-tls}
{{- end }}

{{- define "loramux.envoy.certificate" -}}
{{- $directory := index . 1 -}}
resources:
  - "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret
    name: {{ index . 0 }}
    tls_certificate:
      certificate_chain: {filename: {{ $directory }}/tls.crt}
      private_key: {filename: {{ $directory }}/tls.key}
      watched_directory: {path: {{ $directory }}}
{{- end }}

{{/* A reference to one of the files: (list name file root). */}}
{{- define "loramux.envoy.secret" -}}
{name: {{ index . 0 }}, sds_config: {path_config_source: {path: {{ (index . 1).Values.router.configDirectory }}/{{ index . 0 }}.yaml}}}
{{- end }}

{{/* Towards clients. */}}
{{- define "loramux.envoy.downstreamTLS" -}}
transport_socket:
  name: envoy.transport_sockets.tls
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
    {{- if .root.Values.tls.mutual }}
    require_client_certificate: true
    {{- end }}
    common_tls_context:
      tls_params: {tls_minimum_protocol_version: TLSv1_2}
      alpn_protocols: {{ ternary "[h2]" "[h2, http/1.1]" (eq .protocol "grpc") }}
      tls_certificate_sds_secret_configs:
        - {{ include "loramux.envoy.secret" (list "certificate" .root) }}
      {{- if .root.Values.tls.mutual }}
      validation_context_sds_secret_config: {{ include "loramux.envoy.secret" (list "authority" .root) }}
      {{- end }}
{{- end }}

{{/* Towards the servers. */}}
{{- define "loramux.envoy.upstreamTLS" -}}
{{- $name := include "loramux.router.serverName" . -}}
transport_socket:
  name: envoy.transport_sockets.tls
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
    sni: {{ $name | quote }}
    common_tls_context:
      {{- if .Values.tls.mutual }}
      tls_certificate_sds_secret_configs:
        - {{ include "loramux.envoy.secret" (list "client" .) }}
      {{- end }}
      combined_validation_context:
        default_validation_context:
          match_typed_subject_alt_names: [{san_type: DNS, matcher: {exact: {{ $name | quote }}}}]
        validation_context_sds_secret_config: {{ include "loramux.envoy.secret" (list "authority" .) }}
{{- end }}
