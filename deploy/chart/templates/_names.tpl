{{- define "labels" -}}
app.kubernetes.io/name: ebs-agent-controller
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "selector" -}}
app.kubernetes.io/name: ebs-agent-controller
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "node.labels" -}}
{{ include "node.selector" . }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "node.selector" -}}
app.kubernetes.io/name: ebs-agent-node
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- /* "yes" or nothing */}}
{{- define "hasSnapshots" -}}
{{- if eq (toString .Values.snapshots) "auto" }}
{{- if .Capabilities.APIVersions.Has "snapshot.storage.k8s.io/v1" }}yes{{ end }}
{{- else if eq (toString .Values.snapshots) "true" }}yes{{ end }}
{{- end }}

{{- define "container.security" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "container.mounts" -}}
- {name: socket, mountPath: /csi}
- {name: kubernetes, mountPath: /var/run/secrets/kubernetes.io/serviceaccount, readOnly: true}
{{- end }}

{{- /* Where pods may run, the driver and what values say: always on nodes that wait for the driver, which these pods bring. */}}
{{- define "tolerations" -}}
- {key: {{ printf "%s/agent-not-ready" (index . 0) | quote }}, operator: Exists}
{{- with index . 1 }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* A value as text, after its name. YAML reads 1.10 as 1.1 and no as false, and helm's numbers are exact below 2^53. */}}
{{- define "text" -}}
{{- $name := index . 0 }}{{ $value := index . 1 }}
{{- if kindIs "string" $value }}{{ $value }}
{{- else if kindIs "float64" $value }}
{{- if or (ne (floor $value) $value) (ge $value 9007199254740992.0) (le $value -9007199254740992.0) }}
{{- fail (printf "%s is a number that may not be what was written: write it in quotes." $name) }}
{{- end }}
{{- printf "%.0f" $value }}
{{- else if kindIs "bool" $value }}
{{- fail (printf "%s is read as %t, which may not be what was written: write it in quotes." $name $value) }}
{{- else }}{{ toString $value }}
{{- end }}
{{- end }}

{{- /* A sidecar's container: a list of the root, the name, what values say of it, its arguments. */}}
{{- define "sidecar" -}}
{{- $root := index . 0 }}{{ $said := index . 2 }}
- name: {{ index . 1 }}
  image: {{ printf "%s/%s:%s" $root.Values.sidecars.registry $said.image $said.tag | quote }}
  imagePullPolicy: {{ $root.Values.sidecars.pullPolicy }}
  args:
    - --csi-address=/csi/csi.sock
    {{- range concat (index . 3) $said.extraArgs }}
    - {{ . | quote }}
    {{- end }}
  env: [{name: GOMAXPROCS, value: "4"}] # or Go takes memory for each of a large node's cores
  securityContext: {{- include "container.security" $root | nindent 4 }}
  resources: {{- toYaml $root.Values.sidecars.resources | nindent 4 }}
{{- end }}

{{- define "refusals" -}}
{{- if not .Values.image.repository }}
{{- fail "image.repository is not set: say where the controller's image is, as --set image.repository=REGISTRY/ebs-agent." }}
{{- end }}
{{- if not .Values.region }}
{{- fail "region is not set: say where the cluster is, as --set region=us-west-2." }}
{{- end }}
{{- if and .Values.monitoring.serviceMonitor (not .Values.metrics.enabled) }}
{{- fail "monitoring.serviceMonitor needs metrics.enabled: there would be nothing to scrape." }}
{{- end }}
{{- if and .Values.volumeSnapshotClasses (not (include "hasSnapshots" .)) }}
{{- fail "volumeSnapshotClasses need snapshots: the cluster has no kind VolumeSnapshotClass, or snapshots is false. On EKS the add-on snapshot-controller brings it." }}
{{- end }}
{{- range $key, $value := .Values.extraTags }}
{{- if or (contains "," $key) (contains "=" $key) (contains "," (include "text" (list (printf "extraTags.%s" $key) $value))) }}
{{- fail (printf "extraTags cannot have %q: a comma parts tags, and = a key from its value." $key) }}
{{- end }}
{{- end }}
{{- end }}

{{- /* The rules of a file, their runbooks where monitoring.runbooks says: in braces as templates have, so as text. */}}
{{- define "runbooks" -}}
{{- $root := index . 0 -}}
{{- $root.Files.Get (index . 1) | replace "runbook_url: \"" (printf "runbook_url: \"%s" $root.Values.monitoring.runbooks) -}}
{{- end }}
