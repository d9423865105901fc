{{/* What the picker decides by: the adapter first, then who has the fewest calls. */}}
{{- define "loramux.picker.config" -}}
{{- with .Values.picker -}}
{{- if .config -}}
{{ .config }}
{{- else -}}
apiVersion: inference.networking.x-k8s.io/v1alpha1
kind: EndpointPickerConfig
plugins:
  {{- if .envoy.enabled }}
  - type: passthrough-parser  # takes gRPC and HTTP as they are; the name is in a header
  {{- else }}
  - type: openai-parser  # the name is `model` in the body
  {{- end }}
  - type: metrics-data-source
    parameters: {path: /metrics/router}
  # As a filter: without pods that have so many calls waiting, so much of the cache in use, or no metrics for a second,
  # unless all are so.
  - type: utilization-detector
    parameters: {queueDepthThreshold: {{ .queueDepth }}, kvCacheUtilThreshold: {{ .kvCacheShare }}, metricsStalenessThreshold: 1s}
  - type: lora-affinity-scorer
  # 0 to 1 between the pods with the most and the fewest calls, be it one: at equal weights a call more is as much as an
  # adapter.
  - type: queue-scorer
  - type: running-requests-size-scorer
  - type: max-score-picker
    parameters: {maxNumOfEndpoints: {{ .hosts }}}  # one, and those that a call is tried on after it
schedulingProfiles:
  - name: default
    plugins:
      - pluginRef: utilization-detector
      - pluginRef: max-score-picker
      - {pluginRef: lora-affinity-scorer, weight: {{ .weights.adapter }}}
      - {pluginRef: queue-scorer, weight: {{ .weights.queue }}}
      - {pluginRef: running-requests-size-scorer, weight: {{ .weights.running }}}
parser: {pluginRef: {{ ternary "passthrough-parser" "openai-parser" .envoy.enabled }}}
{{- end }}
{{- end }}
{{- end }}

{{- define "loramux.picker.container" -}}
{{- with .Values.picker -}}
name: picker
image: {{ .image.repository }}:{{ .image.tag }}
imagePullPolicy: {{ .image.pullPolicy }}
args:
  - --pool-name={{ include "loramux.fullname" $ }}
  - --pool-namespace=$(NAMESPACE)
  - --config-file=/etc/picker/picker.yaml
  {{- if .envoy.enabled }}
  - --secure-serving=false  # Envoy is in this pod
  {{- else }}
  - --model-server-metrics-port=9464  # the pool's is that of calls, for the gateway
  {{- end }}
  - --tracing=false
  - --enable-pprof=false
  - --metrics-endpoint-auth=false  # the policy says who may read them
env: [{name: NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}]
ports:
  - {name: picker, containerPort: 9002}
  - {name: picker-metrics, containerPort: 9090}
readinessProbe:
  grpc: {port: 9003, service: inference-extension}
  periodSeconds: 2
livenessProbe:  # one that hangs
  grpc: {port: 9003, service: inference-extension}
  periodSeconds: 10
  failureThreshold: 6
{{- if .envoy.enabled }}
lifecycle:
  preStop:
    sleep: {seconds: {{ include "loramux.router.stopSeconds" $ }}}  # as long as Envoy
{{- end }}
resources:
  {{- toYaml .resources | nindent 2 }}
securityContext:
  {{- toYaml $.Values.securityContext | nindent 2 }}
volumeMounts:
  - {name: picker, mountPath: /etc/picker, readOnly: true}
  - {name: api-token, mountPath: /var/run/secrets/kubernetes.io/serviceaccount, readOnly: true}
{{- end }}
{{- end }}

{{/* Its token is for the picker alone: Envoy, beside it, gets none. */}}
{{- define "loramux.picker.volumes" -}}
- name: picker
  configMap: {name: {{ include "loramux.fullname" . }}-picker-config}
- name: api-token
  projected:
    defaultMode: 0440
    sources:
      - serviceAccountToken: {path: token, expirationSeconds: 3607}
      - configMap:
          name: kube-root-ca.crt
          items: [{key: ca.crt, path: ca.crt}]
      - downwardAPI:
          items: [{path: namespace, fieldRef: {fieldPath: metadata.namespace}}]
{{- end }}

{{/* The API server has no label that a rule could name. */}}
{{- define "loramux.picker.apiServer" -}}
{{- $ports := dict "ports" (list (dict "port" 443) (dict "port" 6443)) }}
{{- range .Values.picker.apiServer | default (list dict) }}
- {{ toYaml (merge dict . $ports) | nindent 2 | trim }}
{{- end }}
{{- end }}

{{- define "loramux.picker.serviceAccount" -}}
{{- .Values.picker.serviceAccount.name | default (printf "%s-picker" (include "loramux.fullname" .)) }}
{{- end }}
