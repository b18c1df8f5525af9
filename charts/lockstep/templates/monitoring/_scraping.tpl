{{/*
How pods of jobs are scraped, in the words of the Prometheus operator. The chart's own Prometheus has
the same, but for where it learns of pods: from the operator's list.
*/}}
{{- define "lockstep.relabelings" -}}
- sourceLabels: [__meta_kubernetes_pod_container_port_name]
  regex: metrics
  action: keep
- sourceLabels: [__meta_kubernetes_pod_phase]
  regex: Succeeded|Failed
  action: drop
# A pod that is not there to answer costs a connection for two minutes with each scrape.
- sourceLabels: [__meta_kubernetes_pod_ready]
  regex: "true"
  action: keep
{{ include "lockstep.rarely" (dict "from" "__meta_kubernetes_pod_annotation_lockstep_dev_scrape_interval" "interval" .interval) }}
- sourceLabels: [__meta_kubernetes_pod_annotation_lockstep_dev_job_name]
  regex: (.+)
  targetLabel: job
# Of a job's pods: device, edge or cloud.
- sourceLabels: [__meta_kubernetes_pod_label_lockstep_dev_role]
  regex: (.+)
  targetLabel: tier
{{- range $label, $group := dict "client" "device_group" "edge" "edge_group" }}
- sourceLabels: [__meta_kubernetes_pod_label_lockstep_dev_{{ $group }}, __meta_kubernetes_pod_label_apps_kubernetes_io_pod_index]
  separator: "-"
  regex: (.+-[0-9]+)
  targetLabel: {{ $label }}
{{- end }}
{{- end }}

{{/* Pods of large jobs ask for longer intervals; one shorter than the given is not taken. */}}
{{- define "lockstep.rarely" -}}
{{- with include "lockstep.longer" .interval }}
{{- $longer := . }}
{{- range list "interval" "timeout" }}
- sourceLabels: [{{ $.from }}]
  regex: ({{ $longer }})s
  replacement: ${1}s
  targetLabel: __scrape_{{ . }}__
{{- end }}
{{- end }}
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

{{/* What a page of a pod may tell at the most: a scrape of more fails. */}}
{{- define "lockstep.limits" -}}
{{- $values := include "lockstep.values" . | fromYaml -}}
targetLimit: {{ $values.prometheus.limits.targets }}
sampleLimit: {{ $values.prometheus.limits.samples }}
bodySizeLimit: {{ $values.prometheus.limits.bodySize }}
labelLimit: 20
labelNameLengthLimit: 64
labelValueLengthLimit: 256
{{- end }}

{{/* What an endpoint of a monitor has beside its port; its relabelings come last: more may follow. */}}
{{- define "lockstep.endpoint" -}}
path: /metrics
honorLabels: {{ .honorLabels }}
honorTimestamps: false
followRedirects: false
interval: {{ .interval }}
scrapeTimeout: {{ .interval }}
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
