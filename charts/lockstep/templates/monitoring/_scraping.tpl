{{/*
How pods are scraped, in the words of the Prometheus operator; the chart's own Prometheus has the same.
(dict "interval" "1s")
*/}}
{{- define "lockstep.relabelings" -}}
- sourceLabels: [__meta_kubernetes_pod_container_port_name]
  regex: http
  action: keep
- sourceLabels: [__meta_kubernetes_pod_phase]
  regex: Succeeded|Failed
  action: drop
# A pod that is not there to answer costs a connection for two minutes with each scrape.
- sourceLabels: [__meta_kubernetes_pod_ready]
  regex: "true"
  action: keep
{{- with include "lockstep.longer" .interval }}
{{- $longer := . }}
# Devices of large jobs ask for longer intervals; a shorter one than above is not taken.
{{- range list "interval" "timeout" }}
- sourceLabels: [__meta_kubernetes_pod_annotation_lockstep_dev_scrape_interval]
  regex: ({{ $longer }})s
  replacement: ${1}s
  targetLabel: __scrape_{{ . }}__
{{- end }}
{{- end }}
- sourceLabels: [__meta_kubernetes_pod_label_lockstep_dev_job]
  regex: (.+)
  targetLabel: job
# Of a job's pods: device, edge or cloud.
- sourceLabels: [__meta_kubernetes_pod_label_lockstep_dev_role]
  regex: (.+)
  targetLabel: tier
{{- end }}

{{/* The seconds up to 60 that are longer than an interval, as a regular expression: "6|7|8". */}}
{{- define "lockstep.longer" -}}
{{- $least := 60 -}}
{{- if regexMatch "^[0-9]+s$" . -}}
{{- $least = trimSuffix "s" . | int -}}
{{- else if regexMatch "^[0-9]+ms$" . -}}
{{- $least = div (trimSuffix "ms" . | int) 1000 -}}
{{- end -}}
{{- range $second := untilStep (add $least 1 | int) 61 1 -}}
{{- if gt $second (add $least 1 | int) }}|{{ end }}{{ $second -}}
{{- end -}}
{{- end -}}

{{/* What an endpoint of a monitor has beside its port; its relabelings come last: more may follow. */}}
{{- define "lockstep.endpoint" -}}
path: /metrics
honorLabels: true
interval: {{ .interval }}
scrapeTimeout: {{ .interval }}
relabelings:
  {{- include "lockstep.relabelings" . | nindent 2 }}
{{- end }}

{{- define "lockstep.monitorLabels" -}}
{{ include "lockstep.labels" . }}
{{- with .more }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "lockstep.watched" -}}
{{- $values := include "lockstep.values" . | fromYaml -}}
{{- if $values.watchNamespaces -}}
matchNames: {{ toJson $values.watchNamespaces }}
{{- else -}}
any: true
{{- end -}}
{{- end }}
