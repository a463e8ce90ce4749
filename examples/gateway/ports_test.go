package main

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
)

// TestTwoGateways: two gateways run on one machine with the usual flags. The
// second, and the first as well where something else has the ports, takes free
// ones, and both tell which.
func TestTwoGateways(t *testing.T) {
	t.Parallel()
	usual := map[string]string{"SOCKS5 proxy": "127.0.0.1:1080", "HTTP proxy": "127.0.0.1:8118", "page": "127.0.0.1:8080"}
	seen := map[string]bool{}
	var first, second *gate
	for _, g := range []**gate{&first, &second} {
		*g = start(t, t.TempDir(), "create", "-name", "earth", "example.com")
		said := strings.Join((*g).lines, "\n")
		var st gatewayStatus
		if err := json.Unmarshal([]byte(must(t)(tell(t, (*g).dir, "status", "-json"))), &st); err != nil {
			t.Fatal(err)
		}
		table := must(t)(tell(t, (*g).dir, "status"))
		if st.Self.Name != "earth.example.com" || len(st.Serves) != len(usual) {
			t.Errorf("the status of %q has %v", st.Self.Name, st.Serves)
		}
		for _, s := range st.Serves {
			if seen[s.Addr] {
				t.Errorf("two gateways say that they serve at %s", s.Addr)
			}
			seen[s.Addr] = true
			if at := (*g).at(t, s.What); at != s.Addr || !strings.Contains(table, s.String()+"\n") {
				t.Errorf("%s: said %s, the status says %s, in a table %s", s.What, at, s.Addr, table)
			}
			want := usual[s.What]
			if told := strings.Contains(said, "a free port: listen tcp "+want+": "); want == "" || told == (s.Addr == want) {
				t.Errorf("%s, usually at %q: %s", s, want, said)
			}
		}
	}
	resp, err := http.Get("http://" + second.at(t, "status page") + "/proxy.pac")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	pac, err := io.ReadAll(resp.Body)
	if want := "SOCKS5 " + second.at(t, "SOCKS5 proxy") + "; PROXY " + second.at(t, "HTTP proxy"); err != nil || !strings.Contains(string(pac), want) {
		t.Errorf("proxy.pac without %s: %v, %s", want, err, pac)
	}
	// An address that was asked for is had or an error.
	asked := first.at(t, "SOCKS5 proxy")
	if out, err := tell(t, t.TempDir(), "create", "-addr", "127.0.0.1", "-socks", asked, "example.com"); err == nil || !strings.Contains(out, "-socks: listen tcp "+asked) || !strings.Contains(out, "choose another address") {
		t.Errorf("with an address that is in use: %v, %s", err, out)
	}
	if out, err := tell(t, first.dir, "run", "-addr", "127.0.0.1"); err == nil || !strings.Contains(out, "a -dir of its own") {
		t.Errorf("with a folder that is in use: %v, %s", err, out)
	}
}
