{{/* Short enough for what is put behind it, and no other long name's. */}}
{{- define "loramux.short" -}}
{{- if gt (len .) 40 }}{{ printf "%s-%s" (trunc 31 . | trimSuffix "-") (sha256sum . | trunc 8) }}{{ else }}{{ trimSuffix "-" . }}{{ end }}
{{- end }}

{{- define "loramux.name" -}}
{{- include "loramux.short" (default .Chart.Name .Values.nameOverride) }}
{{- end }}

{{- define "loramux.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- include "loramux.short" .Values.fullnameOverride }}
{{- else if contains (include "loramux.name" .) .Release.Name }}
{{- include "loramux.short" .Release.Name }}
{{- else }}
{{- include "loramux.short" (printf "%s-%s" .Release.Name (include "loramux.name" .)) }}
{{- end }}
{{- end }}

{{- define "loramux.selectorLabels" -}}
app.kubernetes.io/name: {{ include "loramux.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "loramux.labels" -}}
{{ include "loramux.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Name, labels and annotations of an object: (list $ suffix component annotations), and more labels behind these. */}}
{{- define "loramux.metadata" -}}
{{- $root := index . 0 -}}
name: {{ include "loramux.fullname" $root }}{{ index . 1 }}
labels:
  {{- include "loramux.labels" $root | nindent 2 }}
  app.kubernetes.io/component: {{ index . 2 }}
{{- range slice . 4 }}
{{- with . }}
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- with merge (dict) (index . 3 | default dict) $root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "loramux.image" -}}
{{- with .Values.image }}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end }}
{{- end }}

{{- define "loramux.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (ternary (include "loramux.fullname" .) "default" .Values.serviceAccount.create) }}
{{- end }}

{{/* Whole CPUs of what the container asks for, one at least; "" where that is nothing. */}}
{{- define "loramux.threads" -}}
{{- $cpu := dig "requests" "cpu" (dig "limits" "cpu" "" .Values.resources) .Values.resources | toString }}
{{- if hasSuffix "m" $cpu }}
{{- max 1 (div (trimSuffix "m" $cpu | int) 1000) }}
{{- else if $cpu }}
{{- max 1 (floor (float64 $cpu) | int) }}
{{- end }}
{{- end }}

{{- define "loramux.kind" -}}
{{- ternary "StatefulSet" "Deployment" .Values.stateClaim.enabled }}
{{- end }}

{{- define "loramux.scaled" -}}
{{- if or .Values.scaling.hpa.enabled .Values.scaling.keda.enabled }}true{{ end }}
{{- end }}

{{/* Seconds from SIGTERM to SIGKILL. */}}
{{- define "loramux.gracePeriod" -}}
{{- $drain := add (ceil (dig "drain_delay_s" 0 .Values.settings)) (ceil (dig "drain_s" 30 .Values.settings)) 10 }}
{{- with .Values.terminationGracePeriodSeconds }}
{{- if lt (int .) (int $drain) }}
{{- fail (printf "terminationGracePeriodSeconds: %d is less than the settings need, drain_delay_s + drain_s + 10 = %d" (int .) (int $drain)) }}
{{- end }}
{{- end }}
{{- .Values.terminationGracePeriodSeconds | default $drain }}
{{- end }}

{{- define "loramux.securePod" -}}
enableServiceLinks: false
automountServiceAccountToken: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- toYaml .Values.podSecurityContext | nindent 2 }}
{{- end }}

{{/* Where pods go: of values with these keys, those that are given. */}}
{{- define "loramux.scheduling" -}}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- range $key := list "nodeSelector" "tolerations" "affinity" }}
{{- with get $ $key }}
{{ $key }}:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end }}
