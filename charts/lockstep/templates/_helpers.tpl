{{/*
Names inside the release's namespace are fixed (lockstep-operator, lockstep-prometheus): a namespace
holds one release. Names in the whole cluster begin with the namespace.
*/}}
{{- define "lockstep.clusterName" -}}
{{ .root.Release.Namespace }}:lockstep-{{ .component }}
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

{{/* An image: (dict "root" $ "name" "worker" "override" .Values.worker.image). */}}
{{- define "lockstep.image" -}}
{{- $image := .root.Values.image -}}
{{- $tag := $image.tag | default .root.Chart.AppVersion -}}
{{- if .override -}}
{{ .override }}
{{- else if $image.registry -}}
{{ printf "%s/lockstep-%s:%s" (trimSuffix "/" $image.registry) .name $tag }}
{{- else -}}
{{ printf "lockstep.local/%s:%s" .name $tag }}
{{- end -}}
{{- end }}

{{/* What every pod of the chart has: identity, place, security. */}}
{{- define "lockstep.podSpec" -}}
serviceAccountName: lockstep-{{ .component }}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .root.Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .root.Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.affinity }}
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
{{- $there := lookup "apiextensions.k8s.io/v1" "CustomResourceDefinition" "" "federatedjobs.lockstep.dev" -}}
{{- $notes := dig "metadata" "annotations" dict ($there | default dict) -}}
{{- if not .Values.crds.install -}}
{{- else if not $there -}}
yes
{{- else if and (eq (get $notes "meta.helm.sh/release-name") .Release.Name) (eq (get $notes "meta.helm.sh/release-namespace") .Release.Namespace) -}}
yes
{{- end -}}
{{- end }}
