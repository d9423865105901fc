{{/* The settings that the chart knows itself. */}}
{{- define "loramux.ownSettings" -}}
base: {{ printf "/models/%s" .Values.model.base | toJson }}
adapter_manifest: /etc/loramux-adapters/adapters.yaml
adapter_cache_dir: /cache
state_file: /state/adapters.json
health_port: 50052  # Kubernetes' gRPC probes speak no TLS
{{- if .Values.auth.enabled }}
auth_file: {{ printf "/etc/loramux-tokens/%s" .Values.auth.key | toJson }}
{{- end }}
{{- if .Values.tls.enabled }}
tls_cert: /etc/loramux-tls/tls.crt
tls_key: /etc/loramux-tls/tls.key
{{- if .Values.tls.mutual }}
tls_client_ca: /etc/loramux-tls/ca.crt
{{- end }}
{{- end }}
{{- end }}

{{/* Where a value of the chart says what a setting would. */}}
{{- define "loramux.checkSettings" -}}
{{- $instead := dict "base" "model.base" "host" "extraEnv, LORAMUX_HOST" "port" "" "http_port" "" "metrics_port" "" "health_port" "" "adapter_manifest" "adapters.manifest" "adapter_cache_dir" "volumes.cache" "state_file" "volumes.state" "auth_file" "auth" "tls_cert" "tls" "tls_key" "tls" "tls_client_ca" "tls.mutual" }}
{{- range $name, $value := .Values.settings }}
{{- if hasKey $instead $name }}
{{- $use := get $instead $name }}
{{- fail (printf "settings.%s is the chart's own%s" $name (ternary (printf ": use %s" $use) "" (ne $use ""))) }}
{{- end }}
{{- end }}
{{- end }}

{{- define "loramux.settings" -}}
{{- include "loramux.checkSettings" . }}
{{- include "loramux.ownSettings" . }}
{{ toYaml .Values.settings }}
{{- $threads := include "loramux.threads" . }}
{{- if and $threads (not (hasKey .Values.settings "threads")) }}
threads: {{ $threads }}  # as many as the container's CPU request: the node may have more cores
{{- end }}
{{- end }}
