{{/* Pods of this release: (dict "root" $ "component" "operator"), as a peer in any namespace. */}}
{{- define "lockstep.peer" -}}
namespaceSelector:
  matchLabels:
    kubernetes.io/metadata.name: {{ .root.Release.Namespace }}
podSelector:
  matchLabels: {{- include "lockstep.selector" . | nindent 4 }}
{{- end }}

{{/* Whoever reads metrics: this release's Prometheus, and whom the values name. */}}
{{- define "lockstep.metricsFrom" -}}
{{- $values := include "lockstep.values" . | fromYaml -}}
{{- $peers := $values.networkPolicy.metricsFrom -}}
{{- if $values.prometheus.enabled -}}
{{- $peers = prepend $peers (include "lockstep.peer" (dict "root" . "component" "prometheus") | fromYaml) -}}
{{- end -}}
{{- toJson $peers -}}
{{- end }}

{{/* What the operator is told for the policies of jobs. */}}
{{- define "lockstep.network" -}}
{{- $policy := (include "lockstep.values" . | fromYaml).networkPolicy -}}
{{- $operator := include "lockstep.peer" (dict "root" . "component" "operator") | fromYaml -}}
{{- $metrics := include "lockstep.metricsFrom" . | fromJsonArray -}}
{{- dict "metrics" $metrics "dns" $policy.dns.to "dns_ports" $policy.dns.ports "planner" (list $operator) | toJson -}}
{{- end }}

{{/* To DNS; and whatever else the values allow operator and Prometheus. */}}
{{- define "lockstep.egress" -}}
{{- $policy := (include "lockstep.values" . | fromYaml).networkPolicy -}}
- to: {{- toYaml $policy.dns.to | nindent 4 }}
  ports:
    {{- range $policy.dns.ports }}
    - {port: {{ . }}, protocol: UDP}
    - {port: {{ . }}, protocol: TCP}
    {{- end }}
{{- with $policy.egress }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* The ports at which a URL is served: its own, and what a Service may make of it: (dict "url" "…" "usual" 9090). */}}
{{- define "lockstep.portsOf" -}}
{{- $at := contains "://" .url | ternary .url (printf "http://%s" .url) | urlParse -}}
{{- $said := regexFind ":[0-9]+$" $at.host | trimPrefix ":" -}}
{{- $own := $said | default (eq $at.scheme "https" | ternary "443" "80") -}}
{{- list (int $own) .usual | uniq | toJson -}}
{{- end }}

{{/*
Fails when somebody is to scrape jobs whom nothing lets in: his series would be missing without a word.
*/}}
{{- define "lockstep.refuseUnscraped" -}}
{{- $values := include "lockstep.values" . | fromYaml -}}
{{- $who := "" -}}
{{- range $name, $monitor := $values.monitoring -}}
{{- if $monitor.enabled }}{{ $who = printf "monitoring.%s.enabled" $name }}{{ end -}}
{{- end -}}
{{- if and $values.operator.prometheusUrl (not $values.prometheus.enabled) }}{{ $who = "operator.prometheusUrl" }}{{ end -}}
{{- if and $who (not $values.networkPolicy.metricsFrom) -}}
{{- fail (printf "%s says that a Prometheus of your own reads metrics, and no NetworkPolicy lets it: name its pods in networkPolicy.metricsFrom, such as [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: monitoring}}}], or set networkPolicy.enabled to false" $who) -}}
{{- end -}}
{{- end }}
