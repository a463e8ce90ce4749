package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/idloc/idloc/examples/internal/private"
	"github.com/idloc/idloc/idloc"
)

// The commands talk to the running node over a socket in its folder, which
// only the user can open.
const controlSocket = "control"

// controlPath is the socket's path. Where the folder's path is too long for a
// socket it is an error of net.Listen.
func controlPath(dir string) string { return filepath.Join(dir, controlSocket) }

// control serves the commands, from before the node has entered: who asks
// meanwhile is told how far it is.
func (g *gateway) control(cmd, dir string, p *progress) error {
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		if cmd == "run" {
			return nil // there is nothing to resume, as the node will say
		}
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	path := controlPath(dir)
	if c, err := net.Dial("unix", path); err == nil {
		c.Close()
		return fmt.Errorf("%s is in use: a gateway runs there already; another one needs a -dir of its own", dir)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	l, err := private.Listen(path)
	if err != nil {
		return fmt.Errorf("control socket: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /invite", func(w http.ResponseWriter, r *http.Request) {
		var o idloc.InviteOptions
		err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<16)).Decode(&o)
		var token string
		if err == nil {
			token, err = g.node.Invite(o)
		}
		answer(w, token, err)
	})
	mux.HandleFunc("POST /revoke", func(w http.ResponseWriter, r *http.Request) {
		var opts []idloc.RevokeOption
		if r.FormValue("all") != "" {
			opts = append(opts, idloc.RevokeInvited())
		}
		if r.FormValue("below") != "" {
			opts = append(opts, idloc.RevokeDelegated())
		}
		answer(w, nil, g.node.Revoke(r.Context(), r.FormValue("name"), opts...))
	})
	mux.HandleFunc("GET /invitations", func(w http.ResponseWriter, r *http.Request) { answer(w, g.node.Invitations(), nil) })
	mux.HandleFunc("POST /withdraw", func(w http.ResponseWriter, r *http.Request) {
		answer(w, nil, g.node.Withdraw(r.Context(), r.FormValue("what")))
	})
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, r *http.Request) { answer(w, g.status(), nil) })
	g.serveGrants(mux)
	g.serveCertificates(mux)
	g.serveRule(mux)
	mux.HandleFunc("GET /ping", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), 20*time.Second)
		defer cancel()
		res, err := g.node.Ping(ctx, r.FormValue("name"))
		answer(w, res, err)
	})
	g.httpOn(removedListener{l, path}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !g.entered.Load() {
			http.Error(w, "this gateway has not entered the overlay yet; "+p.last(), http.StatusServiceUnavailable)
			return
		}
		if r.Method == http.MethodConnect {
			g.connect(w, r)
			return
		}
		mux.ServeHTTP(w, r)
	}))
	return nil
}

// serveGrants answers the commands grants and may.
func (g *gateway) serveGrants(mux *http.ServeMux) {
	mux.HandleFunc("GET /grants", func(w http.ResponseWriter, r *http.Request) { answer(w, g.node.Grants(), nil) })
	mux.HandleFunc("POST /grants", func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
		if err == nil {
			err = g.node.SetGrants(r.Context(), string(b))
		}
		answer(w, nil, err)
	})
	mux.HandleFunc("GET /may", func(w http.ResponseWriter, r *http.Request) {
		port, err := strconv.ParseUint(r.FormValue("port"), 10, 16)
		if err != nil {
			answer(w, nil, fmt.Errorf("%q is no port", r.FormValue("port")))
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), 20*time.Second)
		defer cancel()
		d, err := g.node.MayOpen(ctx, r.FormValue("who"), r.FormValue("network"), uint16(port), r.FormValue("whom"))
		answer(w, d, err)
	})
}

// removedListener removes its socket when it closes.
type removedListener struct {
	net.Listener
	path string
}

func (l removedListener) Close() error {
	os.Remove(l.path)
	return l.Listener.Close()
}

func answer(w http.ResponseWriter, v any, err error) {
	if errors.Is(err, idloc.ErrPending) {
		w.WriteHeader(http.StatusAccepted)
		json.NewEncoder(w).Encode(map[string]any{"value": v, "pending": strings.TrimPrefix(err.Error(), "idloc: ")})
		return
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusUnprocessableEntity)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v)
}

// client asks the node that runs in a folder.
type client struct{ dir string }

func (o options) client() client { return client{o.dir} }

func (c client) dial(ctx context.Context) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", controlPath(c.dir))
	if err != nil {
		return nil, fmt.Errorf("no gateway runs in %s (%w)", c.dir, errors.Unwrap(err))
	}
	return conn, nil
}

// pendingError is the answer to what other authorities have to approve: no failure, as
// run knows.
type pendingError struct{ text string }

func (e pendingError) Error() string   { return e.text }
func (e pendingError) Is(t error) bool { return t == idloc.ErrPending }

// ask sends a request and reads the answer into v, also with a pendingError.
func (c client) ask(ctx context.Context, method, path string, body io.Reader, v any) error {
	t := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return c.dial(ctx) }}
	defer t.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, method, "http://gateway"+path, body)
	if err != nil {
		return err
	}
	resp, err := t.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusAccepted:
		var p struct {
			Value   json.RawMessage `json:"value"`
			Pending string          `json:"pending"`
		}
		if err := json.Unmarshal(b, &p); err != nil {
			return err
		}
		return cmp.Or(json.Unmarshal(p.Value, v), error(pendingError{p.Pending}))
	default:
		return errors.New(strings.TrimSpace(string(b)))
	}
	return json.Unmarshal(b, v)
}

func (c client) invite(ctx context.Context, out io.Writer, o idloc.InviteOptions, qr bool) error {
	b, err := json.Marshal(o)
	if err != nil {
		return err
	}
	var token string
	pending := c.ask(ctx, "POST", "/invite", strings.NewReader(string(b)), &token)
	if pending != nil && !errors.Is(pending, idloc.ErrPending) {
		return pending
	}
	if qr {
		if err := drawQR(out, token); err != nil {
			return err
		}
	}
	fmt.Fprintln(out, token)
	return pending
}

func (c client) invitations(ctx context.Context, out io.Writer, asJSON bool, now time.Time) error {
	var all []idloc.Invitation
	if err := c.ask(ctx, "GET", "/invitations", nil, &all); err != nil {
		return err
	}
	if asJSON {
		return printJSON(out, all)
	}
	return listInvitations(out, all, now)
}

func (c client) withdraw(ctx context.Context, out io.Writer, what string) error {
	var none any
	if err := c.ask(ctx, "POST", "/withdraw?what="+url.QueryEscape(what), nil, &none); err != nil {
		return err
	}
	fmt.Fprintln(out, "nobody enters by it any more; who came by it and was confirmed stays a member: gateway revoke puts a member out")
	return nil
}

func (c client) revoke(ctx context.Context, out io.Writer, name string, all, below bool) error {
	q := url.Values{"name": {name}}
	and := ""
	if all {
		q.Set("all", "1")
		and = ", nor who came by the same token"
	}
	if below {
		q.Set("below", "1")
		and += ", nor whom the delegate has let in through which it came"
	}
	var none any
	if err := c.ask(ctx, "POST", "/revoke?"+q.Encode(), nil, &none); err != nil {
		return err
	}
	fmt.Fprintf(out, "%s is no member any more%s; its pipes end everywhere within a minute\n", name, and)
	return nil
}

// grants prints those in force, or sets them.
func (c client) grants(ctx context.Context, how call) error {
	if how.arg == "" {
		var text string
		if err := c.ask(ctx, "GET", "/grants", nil, &text); err != nil {
			return err
		}
		if text == "" {
			text = "# everybody may open everything at everybody: there are no rules\n"
		}
		_, err := io.WriteString(how.out, strings.TrimSuffix(text, "\n")+"\n")
		return err
	}
	file := how.in
	if how.arg != "-" {
		f, err := os.Open(how.arg)
		if err != nil {
			return err
		}
		defer f.Close()
		file = f
	}
	var none any
	if err := c.ask(ctx, "POST", "/grants", file, &none); err != nil {
		return err
	}
	fmt.Fprintln(how.out, "in force here; members that are connected have them within seconds, others when they come")
	return nil
}

// errMayNot is the exit status of may.
var errMayNot = errors.New("refused")

func (c client) may(ctx context.Context, out io.Writer, args []string) error {
	q := url.Values{"who": args[0:1], "network": args[1:2], "port": args[2:3], "whom": args[3:4]}
	var d idloc.GrantDecision
	if err := c.ask(ctx, "GET", "/may?"+q.Encode(), nil, &d); err != nil {
		return err
	}
	fmt.Fprintln(out, d.Why)
	if !d.Allowed {
		return errMayNot
	}
	return nil
}

func (c client) ping(ctx context.Context, out io.Writer, name string, count int) error {
	for i := range count {
		if i > 0 {
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		var r idloc.PingResult
		if err := c.ask(ctx, "GET", "/ping?name="+url.QueryEscape(name), nil, &r); err != nil {
			return err
		}
		fmt.Fprintf(out, "%s: %v, %s %v → %v\n", orID(r.Peer), r.RTT, r.Path.Kind, r.Path.Local, r.Path.Remote)
	}
	return nil
}

func orID(p idloc.Peer) string {
	if p.Name != "" {
		return p.Name
	}
	return p.ID.String()
}

func (c client) read(ctx context.Context) (gatewayStatus, error) {
	var s gatewayStatus
	return s, c.ask(ctx, "GET", "/status", nil, &s)
}

func printJSON(out io.Writer, v any) error {
	enc := json.NewEncoder(out)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

func (c client) status(ctx context.Context, out io.Writer, asJSON bool) error {
	s, err := c.read(ctx)
	if err != nil {
		return err
	}
	if asJSON {
		return printJSON(out, s)
	}
	if onTerminal(out) {
		picture(out, s, time.Now())
		return nil
	}
	role := "asks the database"
	if s.Self.Server {
		role = "serves the database, " + strconv.Itoa(s.Self.Records) + " records"
	}
	switch {
	case s.Self.Founder:
		role += ", founder"
	case s.Self.Authority:
		role += ", authority"
	}
	fmt.Fprintf(out, "%s  %s\nLSIs %s, %s; UDP port %d; members connected: %d; %s\n\n",
		s.Self.Name, s.Self.ID, s.Self.LSI4, s.Self.LSI6, s.Self.Port, s.Self.Members, role)
	if s.Self.Alone {
		fmt.Fprintf(out, "alone: no member is reached, trying on: %s\n\n", cmp.Or(s.Self.AloneWhy, "none was tried yet"))
	}
	for _, text := range s.Self.Warnings {
		fmt.Fprintf(out, "warning: %s\n\n", text)
	}
	for _, at := range s.Serves {
		fmt.Fprintln(out, at)
	}
	if len(s.Serves) > 0 {
		fmt.Fprintln(out)
	}
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tLSI\tPIPE\tPATH\tRTT\tSENT\tRECEIVED\tLAST ERROR")
	for _, p := range s.Peers {
		pipe, path, rtt, lsi := "–", "–", "–", "–"
		if p.Connected {
			pipe = p.AEAD
		}
		for _, a := range p.Paths {
			if a.Active {
				path = a.Kind + " " + a.Remote.String()
			}
		}
		if p.RTT > 0 {
			rtt = p.RTT.String()
		}
		if p.LSI4.IsValid() {
			lsi = p.LSI4.String()
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d\t%d\t%s\n", orID(p.Peer), lsi, pipe, path, rtt, p.BytesSent, p.BytesReceived, p.LastError)
	}
	return w.Flush()
}

// netcheck says what the node has seen of its network.
func (c client) netcheck(ctx context.Context, out io.Writer, asJSON bool) error {
	s, err := c.read(ctx)
	if err != nil {
		return err
	}
	r := report(s.Status, time.Now())
	if asJSON {
		return printJSON(out, r)
	}
	r.print(out)
	return nil
}

func join[T fmt.Stringer](all []T) string {
	if len(all) == 0 {
		return "–"
	}
	var b []string
	for _, a := range all {
		b = append(b, a.String())
	}
	return strings.Join(b, ", ")
}

// connect joins in and out to a connection through the running node.
func (c client) connect(ctx context.Context, address string, in io.Reader, out io.Writer) error {
	conn, err := c.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if _, err := fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", address, address); err != nil {
		return err
	}
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, &http.Request{Method: http.MethodConnect})
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(resp.Body)
		return errors.New(strings.TrimPrefix(strings.TrimSpace(string(b)), "gateway: "))
	}
	go func() {
		io.Copy(conn, in)
		closeWrite(conn)
	}()
	_, err = io.Copy(out, r)
	return err
}
