{{/*
The rules of files/rules.yaml, with what `alerts` says of them: which are left out, for how long a
condition must last, what an alert is labelled with, where its runbook is.
*/}}
{{- define "lockstep.rules" -}}
{{- $values := include "lockstep.values" . | fromYaml -}}
{{- $groups := list -}}
{{- $names := list -}}
{{- range $group := get (.Files.Get "files/rules.yaml" | fromYaml) "groups" -}}
{{- $kept := list -}}
{{- range $rule := $group.rules -}}
{{- if hasKey $rule "record" -}}
{{- $kept = append $kept $rule -}}
{{- else -}}
{{- $names = append $names $rule.alert -}}
{{- $said := get $values.alerts.rules $rule.alert | default dict -}}
{{- if and $values.alerts.enabled (ne (toString (get $said "enabled")) "false") -}}
{{- $kept = append $kept (include "lockstep.alert" (dict "rule" $rule "said" $said "values" $values) | fromYaml) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if $kept -}}
{{- $groups = append $groups (dict "name" $group.name "rules" $kept) -}}
{{- end -}}
{{- end -}}
{{- range $name := keys $values.alerts.rules -}}
{{- if not (has $name $names) -}}
{{- fail (printf "alerts.rules.%s: there is no such alert; there are %s" $name (join ", " $names)) -}}
{{- end -}}
{{- end -}}
{{- toYaml (dict "groups" $groups) -}}
{{- end }}

{{- define "lockstep.alert" -}}
{{- $alerts := .values.alerts -}}
{{- $rule := deepCopy .rule -}}
{{- with get .said "for" }}{{ $_ := set $rule "for" . }}{{ end -}}
{{- with get .said "severity" }}{{ $_ := set $rule.labels "severity" . }}{{ end -}}
{{- $_ := set $rule "labels" (merge (dict) $rule.labels $alerts.labels) -}}
{{- /* An operator that looks at its jobs less often is not late so soon. */ -}}
{{- if eq $rule.alert "LockstepOperatorNotReconciling" -}}
{{- $_ := set $rule "expr" (replace "2 * 120" (printf "2 * %v" .values.operator.resyncSeconds) $rule.expr) -}}
{{- end -}}
{{- $_ := set $rule.annotations "runbook_url" (replace "docs/alerts.md" $alerts.runbookBase $rule.annotations.runbook_url) -}}
{{- toYaml $rule -}}
{{- end }}
