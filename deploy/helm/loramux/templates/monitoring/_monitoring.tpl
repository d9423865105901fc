{{/* Labels by which Prometheus knows the release's pods, as the PodMonitor gives them. */}}
{{- define "loramux.monitoring.selector" -}}
namespace={{ .Release.Namespace | quote }},job={{ include "loramux.fullname" . | quote }}
{{- end }}

{{/* Refuse what would leave the board empty and the alerts silent. */}}
{{- define "loramux.monitoring.check" -}}
{{- if not (has "loramux" (.Values.settings.metrics_names | default (list "loramux"))) }}
{{- fail "monitoring needs loramux among settings.metrics_names" }}
{{- end }}
{{- end }}

{{/* A port of pods, whose series get this job: (list $ port job). */}}
{{- define "loramux.monitoring.endpoint" -}}
{{- with (index . 0).Values.monitoring.podMonitor -}}
- port: {{ index $ 1 }}
  path: /metrics
  interval: {{ .interval }}
  scrapeTimeout: {{ .scrapeTimeout }}
  relabelings:
    - {targetLabel: job, replacement: {{ index $ 2 | quote }}}
    {{- with .relabelings }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  metricRelabelings:
    # They are for routers: each change of what is in the slots would be a new series of the one, each adapter one of
    # the other.
    - sourceLabels: [__name__]
      regex: (vllm:|loramux_)lora_(requests_info|adapter_loaded)
      action: drop
    # When a counter began says nothing that Prometheus does not find by itself, and is a series more for each.
    - sourceLabels: [__name__]
      regex: .*_created
      action: drop
    {{- with .metricRelabelings }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}
{{- end }}
