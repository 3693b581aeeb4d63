{{- define "pmfed.labels" -}}
app.kubernetes.io/name: pmfed
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: {{ .Values.role }}
{{- end }}
{{- define "pmfed.checked" -}}
{{- if not (has .Values.role (list "site" "coordinator")) }}{{ fail "role is 'site' or 'coordinator'" }}{{ end }}
{{- if not .Values.image.repository }}{{ fail "image.repository is missing" }}{{ end }}
{{- if and (eq .Values.role "site") (not .Values.siteToml) }}{{ fail "siteToml is missing" }}{{ end }}
{{- if and (eq .Values.role "site") (not .Values.certificate) }}{{ fail "certificate is missing" }}{{ end }}
{{- if and (eq .Values.role "coordinator") (not .Values.hosts) }}{{ fail "hosts is missing" }}{{ end }}
{{- end }}
