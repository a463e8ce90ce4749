//go:build linux

package kernellab

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// tcp443 lets nothing out but TCP to port 443. noWay forwards nothing, and lets those
// behind it speak to its proxy only.
var tcp443 = ruleset(masquerade, "", `tcp dport 443 accept; iifname "in" drop;`)

const noWay = `table inet box {
	chain forward { type filter hook forward priority filter; policy drop; }
	chain input { type filter hook input priority filter; policy accept; iifname "in" tcp dport 8888 accept; iifname "in" drop; }
}
`

// daemon runs a program in a namespace until all nodes have left, which may need it for
// that, and waits until it answers at an address there.
func (l *lab) daemon(space, at string, args ...string) {
	l.t.Helper()
	c := exec.Command("ip", append([]string{"netns", "exec", space}, args...)...)
	var said strings.Builder
	c.Stdout, c.Stderr = &said, &said
	if err := c.Start(); err != nil {
		l.t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- c.Wait() }()
	l.daemons = append(l.daemons, func() { _ = c.Process.Kill(); <-done })
	host, port, _ := net.SplitHostPort(at)
	tick := time.NewTicker(50 * time.Millisecond) // another process: there is nothing to wait on
	defer tick.Stop()
	for end := time.Now().Add(patience(5 * time.Second)); ; <-tick.C {
		if exec.Command("ip", "netns", "exec", space, "sh", "-c", fmt.Sprintf("echo > /dev/tcp/%s/%s", host, port)).Run() == nil ||
			exec.Command("ip", "netns", "exec", space, "bash", "-c", fmt.Sprintf("echo > /dev/tcp/%s/%s", host, port)).Run() == nil {
			return
		}
		select {
		case err := <-done:
			done <- err
			l.t.Fatalf("%s: %v: %s", args[0], err, said.String())
		default:
		}
		if time.Now().After(end) {
			l.t.Fatalf("%s does not answer: %s", args[0], said.String())
		}
	}
}

// TestCarriers: members that no UDP gets out of join, dial and are dialled.
func TestCarriers(t *testing.T) {
	if testing.Short() {
		t.Skip("six processes behind boxes: not with -short")
	}
	needs(t, "tinyproxy", "tinyproxy-bin")
	if !inside(t) {
		return
	}
	l := newLab(t)
	at := l.public("earth")
	earth := l.start("earth", "earth")
	earth.must(request{Op: "create", Name: "earth", Carry: ":443"})
	all := []*node{earth}
	join := func(label string, env ...string) *node {
		n := l.start(label, label, env...)
		a := n.must(request{Op: "join", Name: label, Token: earth.invite(label)})
		t.Logf("%s joined after %v, UDP %q, carried by %v", label, a.Took.Round(time.Millisecond), a.Self.UDP, a.Self.CarriedBy)
		all = append(all, n)
		return n
	}
	always(portRestricted)(l, "home", "")
	join("home")
	for _, label := range []string{"bank", "hotel"} {
		always(tcp443)(l, label, "")
		if self := join(label).must(request{Op: "self"}).Self; self.Carried != 1 || len(self.CarriedBy) != 1 || self.CarriedBy[0] != "tls://"+at+":443" {
			t.Errorf("%s is carried by %v", label, self.CarriedBy)
		}
	}
	for _, label := range []string{"office", "school"} {
		always(noWay)(l, label, "")
		conf := filepath.Join(l.dirs, "tinyproxy-"+label)
		if err := os.WriteFile(conf, []byte("Port 8888\nTimeout 600\nConnectPort 443\nBasicAuth fred secret\nMaxClients 20\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		l.daemon("box-"+label, "127.0.0.1:8888", "tinyproxy", "-d", "-c", conf)
		other := l.start(label, label+"0")
		other.label, other.name = label, label+"."+domain
		if _, err := other.ask(request{Op: "join", Name: label, Token: earth.invite(label), Within: 5 * time.Second}); err == nil {
			t.Errorf("%s joined without a proxy", label)
		} else {
			t.Logf("%s without its proxy is told: %v", label, err)
		}
		l.leave(other)
		join(label, "HTTPS_PROXY=http://fred:secret@"+inner+".1:8888")
	}
	took := meet(t, measure(t), 20*time.Second, all...)
	for _, a := range all {
		var kinds []string
		for _, b := range all {
			if a != b {
				c := try(a, b, false)
				kinds = append(kinds, fmt.Sprintf("%s %s %v", b.label, c.kind, c.took.Round(time.Millisecond)))
				if c.err != nil {
					t.Errorf("%s to %s: %v", a.label, b.label, c.err)
				}
				if *strict && c.took > 30*time.Millisecond { // a delayed acknowledgement is 40 ms
					t.Errorf("%s to %s: a call took %v", a.label, b.label, c.took)
				}
			}
		}
		t.Logf("%s to: %s", a.label, strings.Join(kinds, ", "))
	}
	t.Logf("all pairs in %v", took)
}

// nginx runs a web server with one site in a namespace, as daemon does.
func (l *lab) nginx(space, at, site string) {
	l.t.Helper()
	conf := filepath.Join(l.dirs, "nginx-"+space)
	text := fmt.Sprintf(`user root root; master_process off; daemon off; pid %[1]s.pid; error_log stderr;
events { worker_connections 256; }
http {
	access_log off;
	client_body_temp_path %[1]s.b; proxy_temp_path %[1]s.p; fastcgi_temp_path %[1]s.f; uwsgi_temp_path %[1]s.u; scgi_temp_path %[1]s.s;
	server {%[2]s	}
}
`, conf, site)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		l.t.Fatal(err)
	}
	l.daemon(space, at, "nginx", "-e", "stderr", "-c", conf)
}

// certificate makes a certificate for an address, and returns its file and its key's.
func certificate(t *testing.T, dir, ip string) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	like := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: ip}, NotBefore: now.AddDate(0, 0, -1), NotAfter: now.AddDate(0, 0, 7), IPAddresses: []net.IP{net.ParseIP(ip)},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, like, like, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, "web.crt"), filepath.Join(dir, "web.key")
	for file, b := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: raw}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

// TestCarrierBehindNginx: a web server in front of the founder's CarrierHandler.
func TestCarrierBehindNginx(t *testing.T) {
	if testing.Short() {
		t.Skip("processes in namespaces: not with -short")
	}
	needs(t, "nginx", "nginx-light")
	needs(t, "curl", "curl")
	needs(t, "tinyproxy", "tinyproxy-bin")
	if !inside(t) {
		return
	}
	l := newLab(t)
	at := l.public("earth")
	cert, key := certificate(t, l.dirs, at)
	site := fmt.Sprintf(`
		listen %[1]s:443 ssl;
		ssl_certificate %[2]s; ssl_certificate_key %[3]s;
		location / { proxy_pass http://127.0.0.1:8080; }
		location /idloc {
			proxy_pass http://127.0.0.1:8080;
			proxy_http_version 1.1;
			proxy_set_header Upgrade $http_upgrade;
			proxy_set_header Connection upgrade;
			proxy_read_timeout 120s;
		}
`, at, cert, key)
	earth := l.start("earth", "earth")
	earth.must(request{Op: "create", Name: "earth", Web: "127.0.0.1:8080", Reach: []string{"wss://" + at + "/idloc"}})
	l.nginx("earth", at+":443", site)
	always(tcp443)(l, "bank", "")
	always(noWay)(l, "office", "")
	proxyConf := filepath.Join(l.dirs, "tinyproxy")
	if err := os.WriteFile(proxyConf, []byte("Port 8888\nTimeout 600\nConnectPort 443\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	l.daemon("box-office", "127.0.0.1:8888", "tinyproxy", "-d", "-c", proxyConf)
	up := []*node{earth}
	for label, env := range map[string]string{"bank": "HTTPS_PROXY=", "office": "HTTPS_PROXY=http://" + inner + ".1:8888"} {
		n := l.start(label, label, "SSL_CERT_FILE="+cert, env)
		a := n.must(request{Op: "join", Name: label, Token: earth.invite(label)})
		if len(a.Self.CarriedBy) != 1 || a.Self.CarriedBy[0] != "wss://"+at+"/idloc" {
			t.Errorf("%s is carried by %v", label, a.Self.CarriedBy)
		}
		t.Logf("%s joined after %v", label, a.Took.Round(time.Millisecond))
		up = append(up, n)
	}
	t.Logf("all pairs in %v", meet(t, measure(t), 20*time.Second, up...))
	for path, want := range map[string]string{"/": "a page\n200", "/idloc": "426"} {
		out, err := exec.Command("ip", "netns", "exec", "bank", "curl", "-sS", "--cacert", cert, "-w", "%{http_code}", "https://"+at+path).CombinedOutput()
		if err != nil || !strings.HasSuffix(string(out), want) {
			t.Errorf("curl of %s: %v, %q", path, err, out)
		}
	}
	if _, err := up[1].ask(request{Op: "bulk", Name: earth.name, Bytes: 8 << 20}); err != nil {
		t.Errorf("8 MiB there and back: %v", err)
	}
}

// TestCarrierMoves: UDP is blocked in mid-stream, and allowed again.
func TestCarrierMoves(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for what is blocked: not with -short")
	}
	t.Parallel()
	if !inside(t) {
		return
	}
	l := newLab(t)
	l.public("earth")
	earth := l.start("earth", "earth")
	earth.must(request{Op: "create", Name: "earth", Carry: ":443"})
	always(portRestricted)(l, "mars", "")
	mars := l.join(earth, "mars")
	always(portRestricted)(l, "venus", "")
	venus := l.join(earth, "venus")
	for _, to := range []*node{earth, venus} {
		if c := try(mars, to, true); c.err != nil || c.kind != "direct" {
			t.Fatalf("to begin with, to %s: %s, %v", to.label, c.kind, c.err)
		}
	}
	type result struct {
		to *node
		a  answer
		e  error
	}
	results := make(chan result, 2)
	blocked := 8 * time.Second
	if *strict {
		blocked = 45 * time.Second // longer than any path is remembered
	}
	streamFor := blocked + 20*time.Second
	for _, to := range []*node{earth, venus} {
		go func() {
			a, err := mars.ask(request{Op: "stream", Name: to.name, Within: streamFor})
			results <- result{to, a, err}
		}()
	}
	await := func(to *node, kinds ...string) time.Duration {
		t.Helper()
		w := measure(t)
		tick := time.NewTicker(20 * time.Millisecond) // another process: there is nothing to wait on
		defer tick.Stop()
		for ; ; <-tick.C {
			a := mars.must(request{Op: "path", Name: to.name})
			for _, k := range kinds {
				if a.Path.Kind == k {
					return w.took()
				}
			}
			if w.took() > 2*time.Minute {
				t.Fatalf("to %s: still %q", to.label, a.Path.Kind)
			}
		}
	}
	time.Sleep(3 * time.Second) // of the streams, undisturbed
	l.rules("box-mars", "table inet wall { chain forward { type filter hook forward priority -1; meta l4proto udp drop; }; }")
	t.Logf("UDP is blocked: to earth over TCP after %v, to venus relayed after %v", await(earth, "tcp"), await(venus, "relayed"))
	time.Sleep(blocked)
	l.shell("ip netns exec box-mars nft delete table inet wall")
	w := measure(t)
	await(earth, "direct")
	took := w.took()
	await(venus, "direct")
	t.Logf("UDP is allowed: to earth directly after %v, to venus after %v", took, w.took())
	if took = w.took(); took > bound(30*time.Second) {
		t.Errorf("back on UDP after %v", took)
	}
	for range 2 {
		r := <-results
		t.Logf("stream to %s: %s, longest silence %v", r.to.label, r.a.Text, r.a.Silence.Round(time.Millisecond))
		if r.e != nil {
			t.Errorf("stream to %s: %v", r.to.label, r.e)
		}
		if *strict && r.a.Silence > 3*time.Second {
			t.Errorf("stream to %s: it stood still for %v", r.to.label, r.a.Silence)
		}
	}
}
