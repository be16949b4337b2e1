{{- define "contourd.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" }}{{ end }}
{{- end }}

{{/* Labels that never change: what selects. Called with a list of the context and the role. */}}
{{- define "contourd.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: contourd
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- define "contourd.labels" -}}
{{- $root := index . 0 -}}
{{ include "contourd.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version }}
{{- end }}

{{- define "contourd.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "contourd.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
privileged: false
capabilities:
  drop: [ALL]
{{- end }}

{{- define "contourd.environment" -}}
- {name: HOME, value: /var/lib/contourd}
- {name: MPLCONFIGDIR, value: /tmp}
- {name: PYTHONDONTWRITEBYTECODE, value: "1"}
{{- end }}

{{- define "contourd.mounts" -}}
- {name: spool, mountPath: /var/lib/contourd, subPath: spool}
- {name: own, mountPath: /etc/contourd/contourd.toml, subPath: contourd.toml, readOnly: true}
- {name: own, mountPath: /run/secrets/contourd, readOnly: true}
- {name: temporary, mountPath: /tmp}
{{- end }}

{{/* Kubernetes lays a Secret's files and a volume out for root and a group, and contourd refuses a token and a spool that
others than its owner can read. So the files are copied, within memory, and the spool is a folder within its volume. */}}
{{- define "contourd.prepare" -}}
- name: prepare
  image: {{ . | quote }}
  command: [sh, -ec]
  args:
    - |
      umask 077
      install -m 0400 /run/secrets/given/* /run/secrets/contourd/
      [ -d /volume/spool ] || mkdir -m 0700 /volume/spool
      key=/volume/spool/site.key
      [ -e $key ] || install -m 0400 /run/secrets/given/site.key $key
      cmp $key /run/secrets/given/site.key || { echo "the volume is of another site: its site.key differs" >&2; exit 1; }
  securityContext: {{- include "contourd.containerSecurity" . | nindent 4 }}
  resources:
    requests: {cpu: 10m, memory: 16Mi}
    limits: {memory: 64Mi}
  volumeMounts:
    - {name: given, mountPath: /run/secrets/given, readOnly: true}
    - {name: own, mountPath: /run/secrets/contourd}
    - {name: spool, mountPath: /volume}
{{- end }}

{{- define "contourd.volumes" -}}
- name: given
  secret:
    secretName: {{ .Values.secretName }}
    defaultMode: 0440
- name: own
  emptyDir: {medium: Memory, sizeLimit: 1Mi}
- name: temporary
  emptyDir: {sizeLimit: 1Gi}
{{- end }}

{{- define "contourd.image" -}}
{{ printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) }}
{{- end }}

{{- define "contourd.workerImage" -}}
{{ printf "%s:%s" (.Values.workers.image.repository | default .Values.image.repository) (.Values.workers.image.tag | default .Values.image.tag | default .Chart.AppVersion) }}
{{- end }}

{{- define "contourd.placement" -}}
{{- with .nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
