{{- define "loramux.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{/* Short enough for what is put behind it. */}}
{{- define "loramux.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains (include "loramux.name" .) .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "loramux.name" .) | trunc 40 | trimSuffix "-" }}
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

{{/* Name, labels and annotations of an object: (list $ suffix component annotations). */}}
{{- define "loramux.metadata" -}}
{{- $root := index . 0 -}}
name: {{ include "loramux.fullname" $root }}{{ index . 1 }}
labels:
  {{- include "loramux.labels" $root | nindent 2 }}
  app.kubernetes.io/component: {{ index . 2 }}
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
{{- if and .Values.stateClaim.enabled (eq (.Values.strategy.type | default "RollingUpdate") "Recreate") }}
{{- fail "strategy.type Recreate is for pods without stateClaim" }}
{{- end }}
{{- ternary "StatefulSet" "Deployment" .Values.stateClaim.enabled }}
{{- end }}

{{- define "loramux.scaled" -}}
{{- if and .Values.scaling.hpa.enabled .Values.scaling.keda.enabled }}
{{- fail "scaling: hpa and keda are both on, of which each would undo what the other does" }}
{{- end }}
{{- range $by := list "hpa" "keda" }}
{{- with get $.Values.scaling $by }}
{{- if gt (int .minReplicas) (int .maxReplicas) }}
{{- fail (printf "scaling.%s: minReplicas %d is more than maxReplicas %d" $by (int .minReplicas) (int .maxReplicas)) }}
{{- end }}
{{- end }}
{{- end }}
{{- if or .Values.scaling.hpa.enabled .Values.scaling.keda.enabled }}true{{ end }}
{{- end }}

{{/* Seconds from SIGTERM to SIGKILL. */}}
{{- define "loramux.gracePeriod" -}}
{{- $drain := add (ceil (.Values.settings.drain_delay_s | default 0)) (ceil (.Values.settings.drain_s | default 30)) 10 }}
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
