package idloc_test

import (
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"

	"github.com/idloc/idloc/idloc"
)

// gathered are the families that a registry with n's collector has.
func gathered(t *testing.T, c prometheus.Collector) map[string]*dto.MetricFamily {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(c)
	all, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	problems, err := promlint.NewWithMetricFamilies(all).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	families := map[string]*dto.MetricFamily{}
	for _, f := range all {
		if !strings.HasPrefix(f.GetName(), "idloc_") {
			t.Errorf("%s is not this node's", f.GetName())
		}
		if len(f.GetHelp()) < 10 || !strings.HasSuffix(f.GetHelp(), ".") {
			t.Errorf("%s: the help is %q", f.GetName(), f.GetHelp())
		}
		families[f.GetName()] = f
	}
	return families
}

// sum adds the values of a family up whose labels have all of want.
func sum(f *dto.MetricFamily, want ...string) (total float64) {
	for _, m := range f.GetMetric() {
		var labels []string
		for _, l := range m.GetLabel() {
			labels = append(labels, l.GetName()+"="+l.GetValue())
		}
		if slices.ContainsFunc(want, func(w string) bool { return !slices.Contains(labels, w) }) {
			continue
		}
		total += m.GetCounter().GetValue() + m.GetGauge().GetValue()
	}
	return total
}

// TestDashboard: all that the dashboard asks for is there from the start: on a
// founder that is alone but for what is told of each peer, and on a member that has
// dialled nobody that too.
func TestDashboard(t *testing.T) {
	t.Parallel()
	board, err := os.ReadFile("../examples/grafana/idloc.json")
	if err != nil {
		t.Fatal(err)
	}
	if !json.Valid(board) {
		t.Error("the dashboard is not JSON")
	}
	asked := regexp.MustCompile(`idloc_[a-z0-9_]+`).FindAllString(string(board), -1)
	if len(asked) < 15 {
		t.Errorf("the dashboard asks for %d metrics", len(asked))
	}
	earth := found(t, idloc.Config{})
	alone := gathered(t, earth.Collector())
	mars := join(t, earth, "mars", idloc.Config{})
	// Join returns when a member is connected.
	joined := gathered(t, mars.Collector())
	for _, name := range asked {
		base := name
		for _, suffix := range []string{"_bucket", "_count", "_sum"} {
			if f, ok := joined[strings.TrimSuffix(name, suffix)]; ok && f.GetType() == dto.MetricType_HISTOGRAM {
				base = f.GetName()
			}
		}
		f := joined[base]
		if len(f.GetMetric()) == 0 {
			t.Errorf("the dashboard asks for %s, which a new member has not", name)
			continue
		}
		ofPeers := slices.ContainsFunc(f.GetMetric()[0].GetLabel(), func(l *dto.LabelPair) bool { return l.GetName() == "peer" })
		if _, ok := alone[base]; !ok && !ofPeers {
			t.Errorf("the dashboard asks for %s, which a founder alone has not", name)
		}
	}
}

// TestCounters: what counts goes on when a pipe ends and when the next begins, and
// can be read when the node has ended.
func TestCounters(t *testing.T) {
	t.Parallel()
	earth, venus, mars := solarWith(t, directly)
	collector := venus.Collector()
	counters := []string{"idloc_pipe_bytes_total", "idloc_pipe_packets_total", "idloc_pipe_rekeys_total", "idloc_peers_drops_total", "idloc_drops_total"}
	last := map[string]float64{}
	grown := func(when, of string) map[string]*dto.MetricFamily {
		t.Helper()
		now := gathered(t, collector)
		for _, name := range counters {
			for _, label := range []string{of, ""} {
				var want []string
				if label != "" && strings.HasPrefix(name, "idloc_pipe_") {
					want = []string{"name=" + label}
				}
				v := sum(now[name], want...)
				if v < last[name+label] {
					t.Errorf("%s: %s of %q went from %v to %v", when, name, label, last[name+label], v)
				}
				last[name+label] = v
			}
		}
		return now
	}
	talk := func(to *idloc.Node) {
		t.Helper()
		c, err := dialTimeout(t, venus, "tcp", net.JoinHostPort(to.Name(), echo(t, to)))
		if err != nil {
			t.Fatal(err)
		}
		if err := roundTrip(c, make([]byte, 100_000)); err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	talk(mars)
	up := grown("a pipe is up", "mars.example.com")
	if v := last["idloc_pipe_bytes_totalmars.example.com"]; v < 200_000 {
		t.Errorf("%v bytes went through", v)
	}
	if v := sum(up["idloc_paths"], "kind=direct"); v != 1 {
		t.Errorf("%v direct paths", v)
	}
	if err := mars.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "mars' pipe ends", func() bool {
		return sum(grown("it ends", "mars.example.com")["idloc_pipes"]) == 0
	})
	talk(earth)
	grown("another is up", "mars.example.com")
	if err := venus.Close(); err != nil {
		t.Fatal(err)
	}
	closed := grown("the node has ended", "mars.example.com")
	if v := sum(closed["idloc_pipes"]); v != 0 {
		t.Errorf("%v pipes of a node that has ended", v)
	}
}

// TestCollectors: a program with several nodes has all in one registry.
func TestCollectors(t *testing.T) {
	t.Parallel()
	earth := found(t, idloc.Config{Dir: filepath.Join(t.TempDir(), "earth")})
	mars := join(t, earth, "mars", idloc.Config{})
	registry := prometheus.NewPedanticRegistry()
	for _, n := range []*idloc.Node{earth, mars} {
		prometheus.WrapRegistererWith(prometheus.Labels{"node": n.Name()}, registry).MustRegister(n.Collector())
	}
	all, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		if f.GetName() == "idloc_server" && len(f.GetMetric()) != 2 {
			t.Errorf("%d nodes", len(f.GetMetric()))
		}
	}
}
