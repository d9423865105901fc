{{/* What stands before the servers. */}}
{{- define "loramux.check.front" -}}
{{- with .Values.router }}
{{- if and .enabled $.Values.picker.enabled }}
{{- fail "router and picker are both on: which of them is to choose the server?" }}
{{- end }}
{{- if and .placement.enabled (not .enabled) }}
{{- fail "router.placement.enabled needs router.enabled" }}
{{- end }}
{{- end }}
{{- with .Values.picker }}
{{- if and .enabled (not .envoy.enabled) $.Values.gateway.grpcRoute.enabled }}
{{- fail "gateway.grpcRoute: the InferencePool of a picker without its Envoy has the port of HTTP" }}
{{- end }}
{{- if and .enabled (not (or .serviceAccount.create .serviceAccount.name)) }}
{{- fail "picker.serviceAccount: name one, or have it created" }}
{{- end }}
{{- end }}
{{- if include "loramux.router.component" . }}
{{- include "loramux.check.router" . }}
{{- end }}
{{- end }}

{{- define "loramux.check.router" -}}
{{- if semverCompare "<1.30-0" .Capabilities.KubeVersion.Version }}
{{- fail "router and picker need Kubernetes 1.30 or newer: a stop of Envoy begins with a pause, which older ones do not have" }}
{{- end }}
{{- if .Values.tls.mutual }}
{{- if not .Values.router.tls.enabled }}
{{- fail "tls.mutual needs router.tls.enabled: Envoy asks clients for certificates in the servers' place" }}
{{- end }}
{{- if not (tpl .Values.router.upstreamTLS.clientSecret .) }}
{{- fail "tls.mutual needs router.upstreamTLS.clientSecret: the servers ask Envoy for a certificate" }}
{{- end }}
{{- end }}
{{- $taken := dict }}
{{- if .Values.picker.enabled }}
{{- $taken = dict "9002" "picker" "9003" "picker" "9090" "picker" }}
{{- end }}
{{- range $name, $port := .Values.router.ports }}
{{- with get $taken (toString $port) }}
{{- fail (printf "router.ports.%s: %v is %s's port" $name $port .) }}
{{- end }}
{{- $_ := set $taken (toString $port) (printf "router.ports.%s" $name) }}
{{- end }}
{{- end }}

{{/* Secrets that are needed and have no name. */}}
{{- define "loramux.check.secrets" -}}
{{- $test := and .Values.test.enabled .Values.auth.enabled }}
{{- $needed := list (list "auth.existingSecret" .Values.auth.enabled .Values.auth.existingSecret) (list "auth.key" .Values.auth.enabled .Values.auth.key) (list "tls.existingSecret" .Values.tls.enabled .Values.tls.existingSecret) (list "test.tokenSecret" $test .Values.test.tokenSecret) (list "test.tokenKey" $test .Values.test.tokenKey) }}
{{- range $needed }}
{{- if and (index . 1) (not (tpl (index . 2) $)) }}
{{- fail (printf "%s is empty, and %s.enabled" (index . 0) (index (splitList "." (index . 0)) 0)) }}
{{- end }}
{{- end }}
{{- if and .Values.tls.mutual (not .Values.tls.enabled) }}
{{- fail "tls.mutual needs tls.enabled" }}
{{- end }}
{{- end }}
