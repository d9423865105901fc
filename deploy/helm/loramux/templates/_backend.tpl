{{/* Name of the Service that calls from outside go to. */}}
{{- define "loramux.front" -}}
{{- if and .Values.router.enabled .Values.picker.enabled }}
{{- fail "router and picker are both on: which of them is to choose the server?" }}
{{- end }}
{{- include "loramux.fullname" . }}
{{- if .Values.router.enabled }}-router{{ else if .Values.picker.enabled }}-picker{{ end }}
{{- end }}
