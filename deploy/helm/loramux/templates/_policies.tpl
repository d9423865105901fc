{{/* Rules of NetworkPolicies that servers, router and picker share. */}}
{{- define "loramux.dnsEgress" -}}
{{- with .Values.networkPolicy.dns }}
- ports:
    - {port: 53, protocol: UDP}
    - {port: 53, protocol: TCP}
  to:
    {{- toYaml . | nindent 4 }}
{{- end }}
{{- end }}

{{/* Calls from everyone, or from those of a list and `helm test`: (list $ peers). */}}
{{- define "loramux.callsIngress" -}}
- ports:
    - {port: grpc}
    - {port: http}
  {{- with index . 1 }}
  from:
    {{- toYaml . | nindent 4 }}
    - podSelector:
        matchLabels:
          {{- include "loramux.selectorLabels" (index $ 0) | nindent 10 }}
          app.kubernetes.io/component: test
  {{- end }}
{{- end }}
