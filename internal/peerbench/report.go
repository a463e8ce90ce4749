package main

import (
	"bytes"
	"cmp"
	"fmt"
	"html"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// report is a run: what is written with -json.
type report struct {
	Date     time.Time `json:"date"`
	Machine  string    `json:"machine"`
	Command  string    `json:"command"`
	Peers    []string  `json:"peers"`
	Medians  []row     `json:"medians"`
	Samples  []sample  `json:"samples"`
	Workload []string  `json:"workloads"`
}

// row is the median of one metric over the rounds.
type row struct {
	Workload string             `json:"workload"`
	Metric   string             `json:"metric"`
	Values   map[string]float64 `json:"values"` // by peer
}

func newReport(date time.Time, names []string, samples []sample) *report {
	r := &report{
		Date: date.UTC().Truncate(time.Second), Machine: machine(), Peers: names, Samples: samples,
		Command: "go run . " + strings.Join(os.Args[1:], " "),
	}
	type key struct{ workload, metric, peer string }
	all := map[key][]float64{}
	for _, s := range samples {
		if !slices.Contains(r.Workload, s.Workload) {
			r.Workload = append(r.Workload, s.Workload)
		}
		for metric, v := range s.Metrics {
			k := key{s.Workload, metric, s.Peer}
			all[k] = append(all[k], v)
		}
	}
	for k, v := range all {
		slices.Sort(v)
		i := slices.IndexFunc(r.Medians, func(x row) bool { return x.Workload == k.workload && x.Metric == k.metric })
		if i < 0 {
			i = len(r.Medians)
			r.Medians = append(r.Medians, row{k.workload, k.metric, map[string]float64{}})
		}
		r.Medians[i].Values[k.peer] = (v[(len(v)-1)/2] + v[len(v)/2]) / 2
	}
	slices.SortFunc(r.Medians, func(a, b row) int {
		return cmp.Or(cmp.Compare(a.Workload, b.Workload), cmp.Compare(rank(a.Metric), rank(b.Metric)), cmp.Compare(a.Metric, b.Metric))
	})
	return r
}

// rank puts the metrics that a workload is about first.
func rank(metric string) int {
	first := []string{"gbps", "p50_us", "p99_us", "kpps", "conns_per_s", "ms", "cpu_s_per_gb"}
	if i := slices.Index(first, metric); i >= 0 {
		return i
	}
	return len(first)
}

func machine() string {
	cpu := runtime.GOARCH
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for l := range strings.Lines(string(b)) {
			if k, v, ok := strings.Cut(l, ":"); ok && strings.TrimSpace(k) == "model name" {
				cpu = strings.TrimSpace(v)
				break
			}
		}
	}
	return fmt.Sprintf("%s, %d CPUs, %s, %s", cpu, runtime.NumCPU(), runtime.GOOS, runtime.Version())
}

// table prints the medians, each with idloc's value as a multiple of it.
func (r *report) table(w io.Writer) error {
	fmt.Fprintf(w, "%s · %s · medians of %d · %s\n(× is the first column over that peer)\n\n", r.Date.Format("2006-01-02 15:04"), r.Machine, *rounds, r.Command)
	t := newGrid(w)
	fmt.Fprintf(t, "\t%s\n", strings.Join(r.Peers, "\t"))
	for _, x := range r.Medians {
		fmt.Fprintf(t, "%s %s", x.Workload, x.Metric)
		r.printValues(t, x)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	r.printErrors(w)
	return nil
}

// grid takes lines of cells with tabs between them, the head first.
type grid interface {
	io.Writer
	Flush() error
}

func newGrid(w io.Writer) grid {
	if *markdown {
		return &pipes{w: w}
	}
	return tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
}

// pipes is a grid in Markdown.
type pipes struct {
	w io.Writer
	b bytes.Buffer
}

func (p *pipes) Write(b []byte) (int, error) { return p.b.Write(b) }

func (p *pipes) Flush() error {
	head := true
	for l := range strings.Lines(p.b.String()) {
		l = strings.TrimSuffix(l, "\n")
		fmt.Fprintf(p.w, "| %s |\n", strings.ReplaceAll(l, "\t", " | "))
		if head {
			fmt.Fprintf(p.w, "|%s\n", strings.Repeat("---|", strings.Count(l, "\t")+1))
			head = false
		}
	}
	_, err := fmt.Fprintln(p.w)
	return err
}

// printValues prints the peers' values of a row, after its name.
func (r *report) printValues(t io.Writer, x row) {
	for i, p := range r.Peers {
		v, ok := x.Values[p]
		switch first, base := x.Values[r.Peers[0]]; {
		case !ok:
			fmt.Fprint(t, "\t–")
		case i == 0 || !base || v == 0:
			fmt.Fprintf(t, "\t%.4g", v)
		default:
			fmt.Fprintf(t, "\t%.4g (%.2f×)", v, first/v)
		}
	}
	fmt.Fprintln(t)
}

// printErrors prints what failed.
func (r *report) printErrors(w io.Writer) {
	for _, s := range r.Samples {
		if s.Err != "" {
			fmt.Fprintf(w, "%s round %d, %s: %s\n", s.Workload, s.Round, s.Peer, s.Err)
		}
	}
}

// charted are the metrics of the chart, with their titles.
var charted = []struct{ workload, metric, title string }{
	{"W1", "gbps", "One stream, Gbit/s"},
	{"W2", "gbps", "Eight streams, Gbit/s"},
	{"W1", "cpu_s_per_gb", "CPU-seconds a GB (less is better)"},
	{"W3", "p50_us", "64 bytes and back, µs (less is better)"},
	{"W4", "conns_per_s", "Connections a second"},
	{"W5r", "kpps", "Datagrams with ≤1 % loss, 1000/s"},
	{"W6", "ms", "First connection, ms (less is better)"},
}

// svg draws one group of bars for each charted metric that was measured.
func (r *report) svg() []byte {
	const width, bar, label, left = 720, 18, 30, 120
	var b bytes.Buffer
	y := 40
	for _, c := range charted {
		i := slices.IndexFunc(r.Medians, func(x row) bool { return x.Workload == c.workload && x.Metric == c.metric })
		if i < 0 {
			continue
		}
		values := r.Medians[i].Values
		top := 0.0
		for _, v := range values {
			top = max(top, v)
		}
		fmt.Fprintf(&b, `<text x="10" y="%d" font-weight="bold">%s</text>`+"\n", y+label-10, html.EscapeString(c.workload+" · "+c.title))
		y += label
		for j, p := range r.Peers {
			v, ok := values[p]
			if !ok || top == 0 {
				continue
			}
			fill := "#9aa5b1"
			if j == 0 {
				fill = "#1f6feb"
			}
			w := v / top * (width - left - 80)
			fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="end">%s</text><rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/><text x="%.1f" y="%d">%.3g</text>`+"\n",
				left-6, y+13, html.EscapeString(p), left, y, w, bar-4, fill, left+w+6, y+13, v)
			y += bar
		}
		y += 6
	}
	head := fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="13">`+"\n"+
		`<rect width="100%%" height="100%%" fill="white"/><text x="10" y="22">%s</text>`+"\n",
		width, y+10, html.EscapeString(fmt.Sprintf("%s · %s · medians of %d", r.Date.Format("2006-01-02"), r.Machine, *rounds)))
	return append(append([]byte(head), b.Bytes()...), "</svg>\n"...)
}
