{{/* What stands before the servers: the router, or the picker's Envoy. Nothing if there is none. */}}
{{- define "loramux.router.component" -}}
{{- if .Values.router.enabled }}router{{ else if and .Values.picker.enabled .Values.picker.envoy.enabled }}picker{{ end }}
{{- end }}

{{- define "loramux.router.name" -}}
{{ include "loramux.fullname" . }}-{{ include "loramux.router.component" . }}
{{- end }}

{{- define "loramux.router.selectorLabels" -}}
{{ include "loramux.selectorLabels" . }}
app.kubernetes.io/component: {{ include "loramux.router.component" . }}
{{- end }}

{{/* Hosts with both ports, as JSON: the pods, by a headless Service, or those of the list. */}}
{{- define "loramux.router.servers" -}}
{{- $pods := printf "%s%s" (include "loramux.fullname" .) (ternary "" "-pods" (eq .Values.service.clusterIP "None")) }}
{{- toJson (.Values.router.servers | default (list (dict "host" $pods "grpc" 50051 "http" 8000))) }}
{{- end }}

{{/* The name in the servers' certificate. */}}
{{- define "loramux.router.serverName" -}}
{{- .Values.router.upstreamTLS.serverName | default (include "loramux.fullname" .) }}
{{- end }}

{{/* The base's names over HTTP, as JSON. */}}
{{- define "loramux.baseNames" -}}
{{- .Values.settings.served_model_names | default (list (base .Values.model.base)) | toJson }}
{{- end }}

{{/* Seconds that Envoy goes on after its pod is deleted: all clients have left it, and their calls had time to end. */}}
{{- define "loramux.router.stopSeconds" -}}
{{- add .Values.router.maxConnectionAgeSeconds 5 .Values.router.drainSeconds }}
{{- end }}

{{- define "loramux.router.tlsSecret" -}}
{{- $secret := .Values.router.tls.existingSecret }}
{{- if not (or $secret .Values.tls.enabled) }}
{{- fail "router.tls.enabled needs router.tls.existingSecret where the servers have no TLS" }}
{{- end }}
{{- tpl ($secret | default .Values.tls.existingSecret) . }}
{{- end }}

{{/* Envoy's files, by name. */}}
{{- define "loramux.router.files" -}}
envoy.yaml: |
  {{- include "loramux.envoy" . | nindent 2 }}
{{- if .Values.tls.enabled }}
authority.yaml: |
  {{- include "loramux.envoy.authority" . | nindent 2 }}
{{- end }}
{{- if .Values.router.tls.enabled }}
certificate.yaml: |
  {{- include "loramux.envoy.certificate" (list "certificate" "/etc/router-tls") | nindent 2 }}
{{- end }}
{{- if .Values.tls.mutual }}
client.yaml: |
  {{- include "loramux.envoy.certificate" (list "client" "/etc/loramux-tls") | nindent 2 }}
{{- end }}
{{- end }}

{{/* A policy that lets a component's pods reach ports of the servers, beside those whom networkPolicy lets in. */}}
{{- define "loramux.router.letIn" }}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  {{- include "loramux.metadata" (list .root (printf "-%s-to-servers" .component) "server" nil) | nindent 2 }}
spec:
  podSelector:
    matchLabels:
      {{- include "loramux.selectorLabels" .root | nindent 6 }}
      app.kubernetes.io/component: server
  policyTypes: [Ingress]
  ingress:
    - from:
        - podSelector:
            matchLabels:
              {{- include "loramux.selectorLabels" .root | nindent 14 }}
              app.kubernetes.io/component: {{ .component }}
      ports:
        {{- range .ports }}
        - {port: {{ . }}}
        {{- end }}
{{- end }}
