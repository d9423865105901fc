{{- define "loramux.router.envoy" -}}
{{- with .Values.router -}}
name: envoy
image: {{ .image.repository }}:{{ .image.tag }}
imagePullPolicy: {{ .image.pullPolicy }}
args: [-c, {{ .configDirectory }}/envoy.yaml, --concurrency, {{ .concurrency | quote }}, --disable-hot-restart, --component-log-level, "misc:warning"]
ports:
  - {name: grpc, containerPort: {{ .ports.grpc }}}
  - {name: http, containerPort: {{ .ports.http }}}
  - {name: metrics, containerPort: {{ .ports.metrics }}}
readinessProbe:
  httpGet: {path: /ready, port: metrics}
  periodSeconds: 2
lifecycle:
  preStop:
    sleep: {seconds: {{ include "loramux.router.stopSeconds" $ }}}
resources:
  {{- toYaml .resources | nindent 2 }}
securityContext:
  {{- toYaml $.Values.securityContext | nindent 2 }}
volumeMounts:
  - {name: envoy, mountPath: {{ .configDirectory }}, readOnly: true}
  {{- if $.Values.tls.enabled }}
  - {name: servers-tls, mountPath: /etc/loramux-tls, readOnly: true}
  {{- end }}
  {{- if .tls.enabled }}
  - {name: router-tls, mountPath: /etc/router-tls, readOnly: true}
  {{- end }}
{{- end }}
{{- end }}

{{- define "loramux.router.volumes" -}}
- name: envoy
  configMap: {name: {{ include "loramux.router.name" . }}}
{{- if .Values.tls.enabled }}
{{- with .Values.router.upstreamTLS }}
- name: servers-tls
  projected:
    defaultMode: 0440
    sources:
      - secret:
          name: {{ tpl (.caSecret | default $.Values.tls.existingSecret) $ }}
          items:
            - {key: {{ .caKey }}, path: {{ .caKey }}}
      {{- if $.Values.tls.mutual }}
      - secret:
          name: {{ tpl .clientSecret $ }}
          items:
            - {key: tls.crt, path: tls.crt}
            - {key: tls.key, path: tls.key}
      {{- end }}
{{- end }}
{{- end }}
{{- if .Values.router.tls.enabled }}
- name: router-tls
  secret:
    secretName: {{ include "loramux.router.tlsSecret" . }}
    defaultMode: 0440
    items:
      - {key: tls.crt, path: tls.crt}
      - {key: tls.key, path: tls.key}
{{- end }}
{{- end }}
