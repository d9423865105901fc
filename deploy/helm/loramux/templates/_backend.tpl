{{/* Name of the Service that calls from inside the cluster go to. */}}
{{- define "loramux.front" -}}
{{- include "loramux.fullname" . }}
{{- with include "loramux.router.component" . }}-{{ . }}{{ end }}
{{- end }}

{{/* A route of the Gateway API: (list $ kind values port). */}}
{{- define "loramux.route" -}}
{{- $root := index . 0 }}
{{- $kind := index . 1 }}
{{- with index . 2 }}
{{- if .enabled }}
{{- if not .parentRefs }}
{{- fail (printf "gateway.%s.parentRefs: name a Gateway" (ternary "grpcRoute" "httpRoute" (eq $kind "GRPCRoute"))) }}
{{- end }}
apiVersion: gateway.networking.k8s.io/v1
kind: {{ $kind }}
metadata:
  {{- include "loramux.metadata" (list $root "" "server" .annotations) | nindent 2 }}
spec:
  parentRefs:
    {{- toYaml .parentRefs | nindent 4 }}
  {{- with .hostnames }}
  hostnames:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  rules:
    - backendRefs:
        {{- if and $root.Values.picker.enabled (not $root.Values.picker.envoy.enabled) }}
        - {group: inference.networking.k8s.io, kind: InferencePool, name: {{ include "loramux.fullname" $root }}}
        {{- else }}
        - name: {{ include "loramux.front" $root }}
          port: {{ index $ 3 }}
        {{- end }}
      {{- with .rule }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
{{- end }}
{{- end }}
{{- end }}
