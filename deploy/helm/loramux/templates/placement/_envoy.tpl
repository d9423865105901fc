{{/* The filter that names servers by adapter. Until there is a table, and for what is not in it, the hash decides. */}}
{{- define "loramux.envoy.placing" -}}
# By this some of an adapter's calls go to one server and some to another.
- name: envoy.filters.http.header_mutation
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation
    mutations:
      request_mutations:
        - append:
            append_action: OVERWRITE_IF_EXISTS_OR_ADD
            header: {key: x-loramux-draw, value: "%UNIQUE_ID%"}
- name: loramux.placement.{{ .protocol }}
  config_discovery:
    config_source:
      resource_api_version: V3
      initial_fetch_timeout: 2s
      api_config_source:
        api_type: REST
        transport_api_version: V3
        cluster_names: [placement]
        refresh_delay: 1s
        request_timeout: 10s
    type_urls: [type.googleapis.com/envoy.extensions.common.matching.v3.ExtensionWithMatcher]
    apply_default_config_without_warming: true
    default_config:
      "@type": type.googleapis.com/envoy.extensions.common.matching.v3.ExtensionWithMatcher
      xds_matcher: {}
      extension_config:
        name: composite
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.http.composite.v3.Composite
{{- end }}

{{- define "loramux.envoy.placementCluster" -}}
- name: placement
  type: STRICT_DNS
  dns_refresh_rate: 5s
  connect_timeout: 2s
  load_assignment:
    cluster_name: placement
    endpoints:
      - lb_endpoints:
          - endpoint: {address: {socket_address: {address: {{ .Values.router.placement.host | default (printf "%s-placement" (include "loramux.fullname" .)) | quote }}, port_value: {{ .Values.router.placement.port }}}}}
{{- end }}

{{- define "loramux.placement.enabled" -}}
{{- if and .Values.router.enabled .Values.router.placement.enabled }}true{{ end }}
{{- end }}
