{{/* The servers, as those who hold an adapter ("adapters") or as any of them ("any"). */}}
{{- define "loramux.envoy.servers" -}}
{{- $router := .root.Values.router -}}
- name: {{ .name }}_{{ .protocol }}
  cluster_type:
    name: envoy.clusters.dns
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.clusters.dns.v3.DnsCluster
      dns_refresh_rate: 2s
      dns_failure_refresh_rate: {base_interval: 1s, max_interval: 2s}
  connect_timeout: 1s
  load_balancing_policy:
    policies:
      {{- if eq .name "any" }}
      - typed_extension_config:
          name: envoy.load_balancing_policies.least_request
          typed_config:
            "@type": type.googleapis.com/envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest
      {{- else if or .root.Values.picker.enabled (include "loramux.placement.enabled" .root) }}
      # The hosts that the header names, one after the other; what is none of the servers, or is out, is passed over.
      - typed_extension_config:
          name: envoy.load_balancing_policies.override_host
          typed_config:
            "@type": type.googleapis.com/envoy.extensions.load_balancing_policies.override_host.v3.OverrideHost
            override_host_sources: [{header: x-gateway-destination-endpoint}]
            fallback_policy:
              policies:
                {{- include "loramux.envoy.policy" .root | nindent 16 }}
      {{- else }}
      {{- include "loramux.envoy.policy" .root | nindent 6 }}
      {{- end }}
  common_lb_config:
    update_merge_window: 0s  # what is out is out now, not within a second
    healthy_panic_threshold: {value: 1}  # when no server is healthy, all are tried: what they say is worth more than nothing
  health_checks:
    # A server that says it is not serving is out at once; one that says nothing after a few tries.
    - timeout: 5s
      interval: 1s
      no_traffic_interval: 1s  # the default is a minute, also for the first call after a pause
      unhealthy_threshold: 3
      healthy_threshold: 1
      {{- if eq .protocol "grpc" }}
      grpc_health_check: {}
      {{- else }}
      http_health_check: {path: /health}
      {{- end }}
  # A server that refuses connections is out at once; statuses, which callers can cause, put none out.
  outlier_detection:
    split_external_local_origin_errors: true
    consecutive_local_origin_failure: 3
    enforcing_consecutive_5xx: 0
    enforcing_consecutive_gateway_failure: 0
    enforcing_success_rate: 0
    enforcing_local_origin_success_rate: 0
    interval: 1s
    base_ejection_time: 5s
    max_ejection_time: 30s
    max_ejection_percent: 70
  # The servers refuse what is too much, and say so better. Retries are a share of what runs: by default Envoy has three
  # at once, fewer than the calls of a server that is lost.
  circuit_breakers:
    thresholds:
      - max_connections: 100000
        max_pending_requests: 100000
        max_requests: 100000
        retry_budget: {budget_percent: {value: {{ $router.retries.budgetPercent }}}, min_retry_concurrency: 32}
  upstream_connection_options: {tcp_keepalive: {keepalive_time: 10, keepalive_interval: 5, keepalive_probes: 3}}
  {{- if eq .protocol "grpc" }}
  {{- include "loramux.envoy.http2" . | nindent 2 }}
  {{- else }}
  typed_extension_protocol_options:
    envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
      "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
      common_http_protocol_options: {idle_timeout: 4s}  # before the server ends an idle connection
      explicit_http_config: {http_protocol_options: {}}
  {{- end }}
  {{- if .root.Values.tls.enabled }}
  {{- include "loramux.envoy.upstreamTLS" .root | nindent 2 }}
  {{- end }}
  load_assignment:
    cluster_name: {{ .name }}_{{ .protocol }}
    endpoints:
      - lb_endpoints:
          {{- range include "loramux.router.servers" .root | fromJsonArray }}
          - endpoint: {address: {socket_address: {address: {{ .host | quote }}, port_value: {{ index . $.protocol }}}}}
            {{- if $router.servers }}
            metadata: {filter_metadata: {envoy.lb: {hash_key: {{ printf "%s:%d" .host (int .grpc) | quote }}}}}  # the same over gRPC and HTTP
            {{- end }}
          {{- end }}
{{- end }}

{{/* By the adapter: one server, as long as it has not many more calls than the others. Or without it. */}}
{{- define "loramux.envoy.policy" -}}
{{- if eq .Values.router.policy "round_robin" -}}
- typed_extension_config:
    name: envoy.load_balancing_policies.round_robin
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin
{{- else if eq .Values.router.policy "least_request" -}}
- typed_extension_config:
    name: envoy.load_balancing_policies.least_request
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest
{{- else -}}
- typed_extension_config:
    name: envoy.load_balancing_policies.maglev
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.load_balancing_policies.maglev.v3.Maglev
      {{- with .Values.router.hashBalanceFactor }}
      consistent_hashing_lb_config: {hash_balance_factor: {{ . }}}
      {{- end }}
{{- end }}
{{- end }}

{{- define "loramux.envoy.http2" -}}
typed_extension_protocol_options:
  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
    "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
    explicit_http_config: {http2_protocol_options: {}}
{{- end }}
