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

{{/* Name, labels and annotations: (list $ suffix labels annotations namespace). */}}
{{- define "loramux.monitoring.metadata" -}}
{{- $root := index . 0 -}}
name: {{ include "loramux.fullname" $root }}{{ index . 1 }}
namespace: {{ index . 4 | default $root.Release.Namespace }}
labels:
  {{- include "loramux.labels" $root | nindent 2 }}
  {{- with index . 2 }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with merge (dict) (index . 3) ($root.Values.commonAnnotations | default dict) }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
