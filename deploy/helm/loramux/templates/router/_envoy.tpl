{{/* Envoy's configuration: router and picker have the same one, with another way to name hosts. */}}
{{- define "loramux.envoy" -}}
node: {id: {{ include "loramux.router.name" . }}, cluster: {{ include "loramux.fullname" . }}}
# Its own page, which can stop it, is for whoever is on the same machine or in the same pod.
admin: {address: {socket_address: {address: 127.0.0.1, port_value: {{ .Values.router.ports.admin }}}}}
# Calls are refused before Envoy's own memory is used up: it keeps a call's message until the server is chosen.
overload_manager:
  resource_monitors:
    - name: envoy.resource_monitors.fixed_heap
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig
        max_heap_size_bytes: {{ .Values.router.maxHeapBytes | int64 }}
    - name: envoy.resource_monitors.global_downstream_max_connections
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig
        max_active_downstream_connections: {{ .Values.router.maxConnections | int64 }}
  actions:
    - name: envoy.overload_actions.shrink_heap
      triggers: [{name: envoy.resource_monitors.fixed_heap, threshold: {value: 0.9}}]
    - name: envoy.overload_actions.stop_accepting_requests
      triggers: [{name: envoy.resource_monitors.fixed_heap, threshold: {value: 0.95}}]
static_resources:
  listeners:
    {{- include "loramux.envoy.listener" (dict "root" . "protocol" "grpc" "port" 50051) | nindent 4 }}
    {{- include "loramux.envoy.listener" (dict "root" . "protocol" "http" "port" 8000) | nindent 4 }}
    {{- include "loramux.envoy.page" . | nindent 4 }}
    {{- if .Values.picker.enabled }}
    {{- include "loramux.envoy.choice" . | nindent 4 }}
    {{- end }}
  clusters:
    {{- range $protocol := list "grpc" "http" }}
    {{- include "loramux.envoy.servers" (dict "root" $ "protocol" $protocol "name" "adapters") | nindent 4 }}
    {{- include "loramux.envoy.servers" (dict "root" $ "protocol" $protocol "name" "any") | nindent 4 }}
    {{- end }}
    {{- if .Values.picker.enabled }}
    {{- include "loramux.envoy.pickerClusters" . | nindent 4 }}
    {{- end }}
    {{- if include "loramux.placement.enabled" . }}
    {{- include "loramux.envoy.placementCluster" . | nindent 4 }}
    {{- end }}
    - name: admin
      type: STATIC
      load_assignment:
        cluster_name: admin
        endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: {{ .Values.router.ports.admin }}}}}}]}]
{{- end }}

{{/* What of the admin's pages is open to the platform: readiness and metrics, to be read. */}}
{{- define "loramux.envoy.page" -}}
- name: metrics
  address: {socket_address: {address: {{ .Values.router.bind | quote }}, port_value: {{ .Values.router.ports.metrics }}}}
  ignore_global_conn_limit: true
  filter_chains:
    - filters:
        - name: envoy.filters.network.http_connection_manager
          typed_config:
            "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
            stat_prefix: metrics
            http_filters:
              - name: envoy.filters.http.router
                typed_config:
                  "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
            route_config:
              virtual_hosts:
                - name: metrics
                  domains: ["*"]
                  routes:
                    {{- range $path, $page := dict "/metrics" "/stats/prometheus" "/ready" "/ready" }}
                    - match: {path: {{ $path }}, headers: [{name: ":method", string_match: {exact: GET}}]}
                      route: {cluster: admin, prefix_rewrite: {{ $page }}}
                    {{- end }}
{{- end }}
