package idloc

import (
	"encoding/json"
	"html/template"
	"net/http"
)

// Handler serves the node's state: "/" is a page for people, "/status.json"
// is Status. It changes nothing and takes no parameters. Status tells real
// addresses of peers: mount it where only those who may know them can reach
// it, on loopback for example.
func (n *Node) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status.json", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		enc.Encode(n.Status())
	})
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
		statusPage.Execute(w, n.Status())
	})
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "metrics: unsupported operation in this version", http.StatusNotImplemented)
	})
	return mux
}

var statusPage = template.Must(template.New("status").Parse(`<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{{.Self.Name}}</title>
<style>
:root { color-scheme: light dark }
body { font: 15px/1.5 system-ui, sans-serif; margin: 1.5rem; max-width: 80rem }
.scroll { overflow-x: auto }
table { border-collapse: collapse }
th, td { text-align: left; padding: .25rem .8rem .25rem 0; border-bottom: 1px solid #8884; white-space: nowrap }
</style>
<h1>{{.Self.Name}}</h1>
<p>{{.Self.ID}}<br>LSIs {{.Self.LSI4}}, {{.Self.LSI6}} · UDP port {{.Self.Port}} · {{.Self.Members}} members connected</p>
<h2>Peers</h2>
<div class="scroll"><table>
<tr><th>Name<th>LSI<th>Pipe<th>Path<th>RTT<th>Sent<th>Received<th>Last error
{{range .Peers}}<tr><td>{{or .Name .ID.String}}<td>{{.LSI4}}<td>{{if .Connected}}up, {{.AEAD}}{{else}}–{{end}}<td>{{range .Paths}}{{if .Active}}{{.Kind}} {{.Remote}}{{end}}{{end}}<td>{{if .RTT}}{{.RTT}}{{end}}<td>{{.BytesSent}}<td>{{.BytesReceived}}<td>{{.LastError}}
{{else}}<tr><td colspan="8">none yet
{{end}}</table></div>
<p><a href="status.json">status.json</a></p>
</html>
`))
