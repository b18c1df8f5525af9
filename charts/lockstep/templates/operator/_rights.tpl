{{/* Made by `make crds` from lockstep_operator.rights; edits here are lost. */}}
{{/* What each scope means is said in rbac.yaml, which gives the roles. */}}
{{- define "lockstep.rights.jobs" -}}
# Jobs as they are; delete is for ttlSecondsAfterFinished.
- apiGroups: [lockstep.dev]
  resources: [federatedjobs]
  verbs: [get, list, watch, delete]
# What became of a job.
- apiGroups: [lockstep.dev]
  resources: [federatedjobs/status]
  verbs: [patch]
# Owner references that block the owner's deletion, where the cluster checks them: it asks for this right, nobody calls it.
- apiGroups: [lockstep.dev]
  resources: [federatedjobs/finalizers]
  verbs: [update]
# What a job is made of. An object is read before it is written: whose it is.
- apiGroups: [apps]
  resources: [statefulsets]
  verbs: [get, list, watch, create, patch, delete]
# Trainers, for allocation.online.
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, patch, delete]
# What a drain may evict of a job.
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
# Who may connect to a job's pods.
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch, delete]
# What the pods of a job find by name.
- apiGroups: [""]
  resources: [services, configmaps, serviceaccounts, persistentvolumeclaims]
  verbs: [get, list, watch, create, patch, delete]
# Pods of jobs; patch is for the labels that tell a pod's cluster and edge.
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch, patch]
# A device's CPU limit of a round.
- apiGroups: [""]
  resources: [pods/resize]
  verbs: [patch]
# What a starting pod may have.
- apiGroups: [""]
  resources: [limitranges, resourcequotas]
  verbs: [list, watch]
# Its own, and what is warned of about a job's pods, sets and volume.
- apiGroups: [""]
  resources: [events]
  verbs: [list, watch, create]
{{- end }}
{{- define "lockstep.rights.cluster" -}}
# Placement: what the nodes have.
- apiGroups: [""]
  resources: [nodes]
  verbs: [list, watch]
# Placement: what their pods already ask for.
- apiGroups: [""]
  resources: [pods]
  verbs: [list]
# Who asks for a plan.
- apiGroups: [authentication.k8s.io]
  resources: [tokenreviews]
  verbs: [create]
# With which keys tokens are signed: cloud pods check those of devices and edges.
- nonResourceURLs: [/.well-known/openid-configuration, /openid/v1/jwks]
  verbs: [get]
# Which other operators are there, and which namespaces they look after.
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [list]
# Whether these may look after what they say.
- apiGroups: [authorization.k8s.io]
  resources: [subjectaccessreviews]
  verbs: [create]
{{- end }}
{{- define "lockstep.rights.own" -}}
# Leader election: no name can be given where an object is made.
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [create]
# Leader election.
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [lockstep-operator]
  verbs: [get, update]
{{- end }}
{{- define "lockstep.rights.seed" -}}
# The seed of all certificates: made once, if it is missing.
- apiGroups: [""]
  resources: [secrets]
  verbs: [create]
# No other Secret is read.
- apiGroups: [""]
  resources: [secrets]
  resourceNames: [lockstep-authority]
  verbs: [get]
{{- end }}
