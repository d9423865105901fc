{{/* Labels by which Prometheus knows the release's pods, as the PodMonitor gives them. */}}
{{- define "loramux.monitoring.selector" -}}
namespace={{ .Release.Namespace | quote }},job={{ include "loramux.fullname" . | quote }}
{{- end }}

{{/* Refuse what would leave the board empty and the alerts silent. */}}
{{- define "loramux.monitoring.check" -}}
{{- $settings := .Values.settings | default dict }}

{{- $names := get $settings "metrics_names" | default (list "loramux") }}
{{- if not (contains "loramux" (toString $names)) }}
{{- fail "monitoring needs loramux among settings.metrics_names" }}
{{- end }}
{{- end }}
