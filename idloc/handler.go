package idloc

import (
	"embed"
	"encoding/json"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

const (
	pageHistory    = 50 // happenings that the page shows
	captureDefault = 10 * time.Second
	captureLongest = 10 * time.Minute
	pagePolicy     = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

//go:embed page
var pageFiles embed.FS

// Handler serves what the node knows of itself, for people and for machines:
//
//	/                  a page: the overlay as a picture, traffic, dials, events, who rules the overlay
//	/status.json       Status
//	/events.json       the newest 512 events since the node began
//	/traffic.json      what its pipes have carried since then: of each peer an array of points, and each point
//	                   an array: Unix milliseconds, bytes sent, bytes received, round-trip time in nanoseconds
//	                   (0: not known). Every 10 s, less often after ten minutes, for ten days
//	/authorities.json  Authorities: "authorities", "threshold"; and the newest 50 of History: "history"
//	/history.json      History, all of it
//	/metrics           the node's metrics, for Prometheus; with ?libp2p also libp2p's, of all nodes in the process
//	/capture.pcap      inner packets for ?seconds=N (1 to 600, 10 if not said)
//
// All are GET and change nothing. They tell real addresses of peers and, in
// the capture, what applications say in clear: mount it where only those who
// may know can reach it, on loopback for example. A request that comes in on
// loopback must name localhost or an IP address as its Host, so that no web
// site can read it through a name of its own (DNS rebinding).
//
// The paths are relative to where the Handler is mounted; use
// http.StripPrefix to mount it below another path. It may be used until and
// after Close.
func (n *Node) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status.json", func(w http.ResponseWriter, r *http.Request) {
		writeJSON(w, n.Status())
	})
	mux.HandleFunc("GET /events.json", func(w http.ResponseWriter, r *http.Request) {
		writeJSON(w, n.hub.all())
	})
	mux.HandleFunc("GET /traffic.json", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(n.traffic.all()) // on one line: there is much of it
	})
	mux.HandleFunc("GET /authorities.json", func(w http.ResponseWriter, r *http.Request) {
		writeJSON(w, n.ruled())
	})
	mux.HandleFunc("GET /history.json", func(w http.ResponseWriter, r *http.Request) {
		writeJSON(w, append([]Happening{}, n.History()...)) // an empty one is [] and not null
	})
	own, all := promhttp.HandlerFor(n.gatherer(false), promhttp.HandlerOpts{}), promhttp.HandlerFor(n.gatherer(true), promhttp.HandlerOpts{})
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Has("libp2p") {
			all.ServeHTTP(w, r)
			return
		}
		own.ServeHTTP(w, r)
	})
	mux.HandleFunc("GET /capture.pcap", n.serveCapture)
	files, err := fs.Sub(pageFiles, "page")
	if err != nil {
		panic(err) // the folder is part of the program
	}
	mux.Handle("GET /", http.FileServerFS(files))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !hostAllowed(r) {
			http.Error(w, "this Host is not served on loopback; use localhost or an IP address", http.StatusForbidden)
			return
		}
		h := w.Header()
		h.Set("Cache-Control", "no-store")
		h.Set("Content-Security-Policy", pagePolicy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		mux.ServeHTTP(w, r)
	})
}

// hostAllowed refuses names other than localhost for requests that came in on
// a loopback address.
func hostAllowed(r *http.Request) bool {
	local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if !ok {
		return true
	}
	at, err := netip.ParseAddrPort(local.String())
	if err != nil || !at.Addr().Unmap().IsLoopback() {
		return true
	}
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	if host == "localhost" {
		return true
	}
	if len(host) > 1 && host[0] == '[' {
		host = host[1 : len(host)-1]
	}
	_, err = netip.ParseAddr(host)
	return err == nil
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	_ = enc.Encode(v) // the reader has gone
}

// ruled is who rules the overlay, and what was done to it last, as the page shows it.
type ruled struct {
	Authorities []Authority `json:"authorities"`
	Threshold   int         `json:"threshold"` // how many of them have to agree
	History     []Happening `json:"history"`   // the newest, oldest first
}

func (n *Node) ruled() (r ruled) {
	r.Authorities, r.Threshold = n.Authorities()
	h := n.History()
	r.History = append([]Happening{}, h[max(0, len(h)-pageHistory):]...)
	return r
}

// serveCapture streams a capture until its time is over or the reader goes.
func (n *Node) serveCapture(w http.ResponseWriter, r *http.Request) {
	length := captureDefault
	if s := r.URL.Query().Get("seconds"); s != "" {
		sec, err := strconv.Atoi(s)
		length = time.Duration(sec) * time.Second
		if err != nil || length < time.Second || length > captureLongest {
			http.Error(w, "seconds: want a whole number from 1 to 600", http.StatusBadRequest)
			return
		}
	}
	w.Header().Set("Content-Type", "application/vnd.tcpdump.pcap")
	w.Header().Set("Content-Disposition", `attachment; filename="`+n.Name()+`.pcap"`)
	stop, err := n.Capture(flusher{w, http.NewResponseController(w)})
	if err != nil {
		w.Header().Del("Content-Disposition")
		http.Error(w, err.Error(), http.StatusConflict)
		return
	}
	defer stop()
	t := time.NewTimer(length)
	defer t.Stop()
	select {
	case <-t.C:
	case <-r.Context().Done():
	case <-n.ctx.Done():
	}
}

// flusher sends each packet on as it comes.
type flusher struct {
	http.ResponseWriter
	c *http.ResponseController
}

func (f flusher) Write(b []byte) (int, error) {
	k, err := f.ResponseWriter.Write(b)
	if err == nil {
		_ = f.c.Flush() // a writer that cannot flush sends at the end
	}
	return k, err
}
