{{/*
Names inside the release's namespace are fixed (lockstep-operator, lockstep-prometheus): a namespace
holds one release. Names in the whole cluster begin with the namespace.
*/}}
{{- define "lockstep.clusterName" -}}
{{ .root.Release.Namespace }}:lockstep-{{ .component }}
{{- end }}

{{/*
The values that templates read, as YAML. One that was left blank (null: Helm takes the key away), or
that the values of an older release lack (--reuse-values), has its default; a blank affinity is none.
Resources are filled as a whole only: who takes their limits away wants none.
*/}}
{{- define "lockstep.values" -}}
{{- $defaults := include "lockstep.defaults" . | fromYaml -}}
{{- toYaml (include "lockstep.filled" (dict "given" .Values "defaults" $defaults) | fromYaml) -}}
{{- end }}

{{- define "lockstep.filled" -}}
{{- $given := .given | default dict -}}
{{- $filled := deepCopy $given -}}
{{- range $key, $default := .defaults -}}
{{- $value := index $given $key -}}
{{- if and (kindIs "map" $default) (ne $key "resources") -}}
{{- $_ := set $filled $key (include "lockstep.filled" (dict "given" $value "defaults" $default) | fromYaml) -}}
{{- else if kindIs "invalid" $value -}}
{{- $_ := set $filled $key $default -}}
{{- end -}}
{{- end -}}
{{- toYaml $filled -}}
{{- end }}

{{- define "lockstep.defaults" -}}
image: {registry: "", tag: "", pullPolicy: IfNotPresent, pullSecrets: []}
crds: {install: true, keep: true}
watchNamespaces: []
operator:
  replicas: 1
  image: ""
  resyncSeconds: 120
  cpuWatts: 10
  boostCores: 1
  prometheusUrl: ""
  logFormat: plain
  logLevel: INFO
  planner: {auth: true}
  allowedImages: []
  allowedPriorityClasses: []
  resources:
    requests: {cpu: 100m, memory: 128Mi}
    limits: {memory: 256Mi}
worker: {image: ""}
tls: {enabled: true, certManager: {issuerRef: {}}}
prometheus:
  enabled: true
  image: ""
  scrapeInterval: 1s
  evaluationInterval: 15s
  alertmanagers: []
  retention: 7d
  limits: {targets: 20000, samples: 20000, bodySize: 4MB}
  storage: {persistent: false, size: 2Gi, storageClassName: ""}
  resources:
    requests: {cpu: 50m, memory: 128Mi}
    limits: {memory: 1Gi}
alerts: {enabled: true, runbookBase: docs/alerts.md, labels: {}, rules: {}}
monitoring:
  podMonitor: {enabled: false, interval: 1s, labels: {}}
  serviceMonitor: {enabled: false, interval: 5s, labels: {}}
  prometheusRule: {enabled: false, interval: 15s, labels: {}}
rbac: {aggregate: true}
admissionPolicy: {enabled: true}
networkPolicy:
  enabled: true
  metricsFrom: []
  prometheusFrom: []
  dns:
    to:
      - namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}
      - ipBlock: {cidr: 169.254.20.10/32}
    ports: [53]
  apiserverPorts: [443, 6443, 8443, 16443]
  egress: []
dashboards:
  enabled: true
  label: grafana_dashboard
  labelValue: "1"
  annotations: {}
  grafanaOperator: {enabled: false, instanceSelector: {}, folder: Lockstep}
priorityClassName: ""
{{- end }}

{{/* Not empty: cert-manager's issuer signs for the operator's CAs. */}}
{{- define "lockstep.issuer" -}}
{{- $values := include "lockstep.values" . | fromYaml -}}
{{- if and $values.tls.enabled $values.tls.certManager.issuerRef -}}{{ $values.tls.certManager.issuerRef.name }}{{- end -}}
{{- end }}

{{/* What selects the pods of a component: (dict "root" $ "component" "operator"). */}}
{{- define "lockstep.selector" -}}
app.kubernetes.io/name: lockstep
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* All labels of a component's objects. */}}
{{- define "lockstep.labels" -}}
{{ include "lockstep.selector" . }}
app.kubernetes.io/part-of: lockstep
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end }}

{{/* An image: (dict "root" $ "name" "worker" "override" $values.worker.image). */}}
{{- define "lockstep.image" -}}
{{- $image := (include "lockstep.values" .root | fromYaml).image -}}
{{- $tag := $image.tag | default .root.Chart.AppVersion -}}
{{- if .override -}}
{{ .override }}
{{- else if $image.registry -}}
{{ printf "%s/lockstep-%s:%s" (trimSuffix "/" $image.registry) .name $tag }}
{{- else -}}
{{ printf "lockstep.local/%s:%s" .name $tag }}
{{- end -}}
{{- end }}

{{/* Patterns, in which * stands for any characters, as the regular expression of all of them, quoted for CEL. */}}
{{- define "lockstep.patterns" -}}
{{- $each := list -}}
{{- range . -}}
{{- $each = append $each (regexQuoteMeta . | replace "\\*" ".*") -}}
{{- end -}}
{{ printf "^(%s)$" (join "|" $each) | toJson }}
{{- end }}

{{/* What every pod of the chart has: identity, place, security. */}}
{{- define "lockstep.podSpec" -}}
{{- $values := include "lockstep.values" .root | fromYaml -}}
serviceAccountName: lockstep-{{ .component }}
{{- with $values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  seccompProfile:
    type: RuntimeDefault
{{- end }}

{{- define "lockstep.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end }}

{{/* A binding: (dict "root" $ "component" "operator" "namespace" "" = ClusterRole). */}}
{{- define "lockstep.subject" -}}
subjects:
  - kind: ServiceAccount
    name: lockstep-{{ .component }}
    namespace: {{ .root.Release.Namespace }}
{{- end }}

{{/*
"yes" when this release brings the CRD: it is not there yet, or this release brought it. `lookup`
finds nothing in `helm template`, so that shows it always.
*/}}
{{- define "lockstep.ownsCrd" -}}
{{- $values := include "lockstep.values" . | fromYaml -}}
{{- $there := lookup "apiextensions.k8s.io/v1" "CustomResourceDefinition" "" "federatedjobs.lockstep.dev" -}}
{{- $notes := dig "metadata" "annotations" dict ($there | default dict) -}}
{{- if not $values.crds.install -}}
{{- else if not $there -}}
yes
{{- else if and (eq (get $notes "meta.helm.sh/release-name") .Release.Name) (eq (get $notes "meta.helm.sh/release-namespace") .Release.Namespace) -}}
yes
{{- end -}}
{{- end }}

{{/*
Fails when another release looks after all namespaces as this one does, or after one that this one
names. `lookup` finds nothing in `helm template`: the operators notice each other at run time, too.
*/}}
{{- define "lockstep.refuseOverlap" -}}
{{- $values := include "lockstep.values" . | fromYaml -}}
{{- $mine := include "lockstep.clusterName" (dict "root" . "component" "operator") -}}
{{- $roles := lookup "rbac.authorization.k8s.io/v1" "ClusterRole" "" "" | default dict -}}
{{- range get $roles "items" | default list -}}
{{- $notes := .metadata.annotations | default dict -}}
{{- if and (hasKey $notes "lockstep.dev/namespaces") (ne .metadata.name $mine) -}}
{{- $theirs := get $notes "lockstep.dev/namespaces" | fromJsonArray -}}
{{- $release := printf "release %s in namespace %s" (get $notes "meta.helm.sh/release-name") (get $notes "meta.helm.sh/release-namespace") -}}
{{- if not (or $theirs $values.watchNamespaces) -}}
{{- fail (printf "%s runs the jobs of all namespaces already: set watchNamespaces of one of the two, or uninstall it" $release) -}}
{{- end -}}
{{- range $values.watchNamespaces -}}
{{- if has . $theirs -}}
{{- fail (printf "%s runs the jobs of namespace %s already: take it out of watchNamespaces of one of the two" $release .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end }}
