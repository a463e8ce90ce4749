package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"
)

// cell is one condition of the path between two hosts, the same in both
// directions.
type cell struct {
	Delay   time.Duration // one way
	Loss    float64       // probability that a packet is lost, one by one
	Reorder float64       // probability that a packet comes late, overtaken by others
	Late    time.Duration // by how much
	Rate    float64       // bit/s of the bottleneck
	Queue   time.Duration // what the bottleneck holds before it drops, at its rate
	Burst   float64       // packets that are lost together, on average (Gilbert); 0: one by one
	Dips    time.Duration // so often the rate is a tenth, for a quarter of that time; 0: never
}

func (c cell) String() string {
	s := fmt.Sprintf("%v, %.0f Mbit/s", c.Delay, c.Rate/1e6)
	if c.Loss > 0 {
		s += fmt.Sprintf(", %.4g %% lost", c.Loss*100)
	}
	if c.Burst > 0 {
		s += fmt.Sprintf(" %.4g at once", c.Burst)
	}
	if c.Dips > 0 {
		s += fmt.Sprintf(", a tenth of it for a quarter of each %v", c.Dips)
	}
	if c.Reorder > 0 {
		s += fmt.Sprintf(", %.4g %% late by %v", c.Reorder*100, c.Late)
	}
	return s
}

// impairments is the table's rows: two delays, each clean, with four rates of
// loss, with two of reordering and with both; then narrow bottlenecks; then what Wi-Fi,
// mobile and satellite links are like, one wide and long one, and one to be shared
// (-together).
func impairments() []cell {
	const wide, narrow = 200e6, 20e6
	var cells []cell
	for _, delay := range []time.Duration{5 * time.Millisecond, 50 * time.Millisecond} {
		base := cell{Delay: delay, Rate: wide, Queue: 50 * time.Millisecond}
		cells = append(cells, base)
		for _, loss := range []float64{.0001, .001, .01, .03} {
			c := base
			c.Loss = loss
			cells = append(cells, c)
		}
		for _, reorder := range []float64{.001, .01} {
			c := base
			c.Reorder, c.Late = reorder, 2*time.Millisecond
			cells = append(cells, c)
		}
		c := base
		c.Loss, c.Reorder, c.Late = .001, .01, 2*time.Millisecond
		cells = append(cells, c, cell{Delay: delay, Rate: narrow, Queue: 50 * time.Millisecond})
	}
	odd := func(change func(c *cell)) {
		c := cell{Delay: 20 * time.Millisecond, Rate: wide / 2, Queue: 50 * time.Millisecond}
		change(&c)
		cells = append(cells, c)
	}
	odd(func(c *cell) { c.Loss, c.Burst = .02, 8 })
	odd(func(c *cell) { c.Reorder, c.Late = .01, 2*time.Millisecond })
	odd(func(c *cell) { c.Reorder, c.Late = .01, 20*time.Millisecond })
	odd(func(c *cell) { c.Dips = 4 * time.Second })
	odd(func(c *cell) {
		c.Delay, c.Rate, c.Queue, c.Loss = 300*time.Millisecond, 50e6, 100*time.Millisecond, .01
	})
	odd(func(c *cell) { c.Delay, c.Rate, c.Loss = 10*time.Millisecond, 1e9, .001 })
	odd(func(c *cell) { c.Rate = 50e6 })
	return cells
}

// end is one of the two processes of a measurement, each in a network
// namespace of its own.
type end struct {
	local netip.Addr // its own address
	peer  netip.Addr // the other's
}

// rival is who can be measured over an impaired path. hello goes from the
// server to the client before the path is impaired for it.
type rival struct {
	name  string
	serve func(ctx context.Context, e *end) (hello string, accept func() (stream, error), err error)
	dial  func(ctx context.Context, e *end, hello string) (stream, error)
}

// rivals in the order of the table's columns; the first is what the others
// are measured against. The kernel's congestion control is set on both
// sockets, whatever the machine's default is.
var rivals = []rival{
	{"idloc", idlocServe, idlocConnect},
	{"idloc-tcp", idlocServeCarried, idlocConnect},
	{"kernel-cubic", kernelServe("cubic"), kernelConnect("cubic")},
	{"kernel-reno", kernelServe("reno"), kernelConnect("reno")},
	{"kernel-bbr", kernelServe("bbr"), kernelConnect("bbr")},
	{"tsnet", tsnetServe, tsnetConnect},
}

// runEnd is what a process of its own does: the server counts what it
// receives from the first byte on, skips warm, and prints the bit rate of the
// dur after it; the client writes until it is killed.
func runEnd(ctx context.Context, name, role, hello string, e *end) error {
	i := slices.IndexFunc(rivals, func(r rival) bool { return r.name == name })
	if i < 0 {
		return fmt.Errorf("no peer %q", name)
	}
	r := rivals[i]
	if role == "dial" {
		c, err := r.dial(ctx, e, hello)
		if err != nil {
			return err
		}
		buf := make([]byte, 64<<10)
		for {
			if _, err := c.Write(buf); err != nil {
				return err
			}
		}
	}
	hello, accept, err := r.serve(ctx, e)
	if err != nil {
		return err
	}
	out := json.NewEncoder(os.Stdout)
	if err := out.Encode(hello); err != nil {
		return err
	}
	c, err := accept()
	if err != nil {
		return err
	}
	rate, err := receive(c, *warm, *dur)
	if err != nil {
		return err
	}
	return out.Encode(rate)
}

// receive returns the bit/s that c took in the time of length d after warm.
func receive(c io.Reader, warm, d time.Duration) (float64, error) {
	buf := make([]byte, 256<<10)
	if _, err := c.Read(buf[:1]); err != nil {
		return 0, err
	}
	var from, n int64
	begin := time.Now()
	for counting := false; ; {
		k, err := c.Read(buf)
		if err != nil {
			return 0, err
		}
		n += int64(k)
		switch t := time.Since(begin); {
		case !counting && t >= warm:
			counting, from, begin, warm = true, n, time.Now(), 0
		case counting && t >= d:
			return float64(n-from) * 8 / t.Seconds(), nil
		}
	}
}

// impaired runs the table.
func impaired(ctx context.Context) error {
	if !inNamespace() {
		return enterNamespace(ctx)
	}
	l, err := newLab()
	if err != nil {
		return err
	}
	defer l.close()
	cells := impairments()
	if *only != "" {
		exact := slices.ContainsFunc(cells, func(c cell) bool { return c.String() == *only })
		cells = slices.DeleteFunc(cells, func(c cell) bool {
			return exact && c.String() != *only || !strings.Contains(c.String(), *only)
		})
	}
	if *together {
		return shared(ctx, l, cells)
	}
	var names []string
	for _, r := range rivals {
		if *who == "" || slices.Contains(strings.Split(*who, ","), r.name) {
			names = append(names, r.name)
		}
	}
	began := time.Now()
	var samples []sample
	for round := range *rounds {
		for _, c := range cells {
			for _, name := range names {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				rate, err := l.measure(ctx, name, c, *firstSeed+uint64(round))
				s := sample{Peer: name, Workload: c.String(), Round: round, Metrics: map[string]float64{"mbps": rate / 1e6}}
				if err != nil {
					s.Err, s.Metrics = err.Error(), nil
				}
				samples = append(samples, s)
				if !*quiet {
					fmt.Fprintf(os.Stderr, "%d %-45s %-12s %.4g Mbit/s %s\n", round, c, name, rate/1e6, s.Err)
				}
			}
		}
	}
	r := newReport(began, names, samples)
	printImpaired(os.Stdout, r, cells)
	if *jsonFile != "" {
		b, err := json.MarshalIndent(r, "", "\t")
		if err != nil {
			return err
		}
		return os.WriteFile(*jsonFile, append(b, '\n'), 0o644)
	}
	return nil
}

// shared has all of -peers share each path, and prints what each got.
func shared(ctx context.Context, l *lab, cells []cell) error {
	names := strings.Split(*who, ",")
	for round := range *rounds {
		for _, c := range cells {
			rates, err := l.together(ctx, names, c, *firstSeed+uint64(round))
			if err != nil {
				return err
			}
			fmt.Printf("seed %d %s:", *firstSeed+uint64(round), c)
			for i, rate := range rates {
				fmt.Printf(" %s %.4g Mbit/s (%.0f %%)", names[i], rate/1e6, 100*rate/c.Rate)
			}
			fmt.Println()
		}
	}
	return nil
}

// printImpaired prints a row for each cell, in their order: newReport sorts by name.
func printImpaired(w io.Writer, r *report, cells []cell) {
	fmt.Fprintf(w, "%s · %s · Mbit/s of one stream, medians of %d · %s\n(× is the first column over that peer)\n\n",
		r.Date.Format("2006-01-02 15:04"), r.Machine, *rounds, r.Command)
	t := newGrid(w)
	fmt.Fprintf(t, "one-way delay, bottleneck\t%s\n", strings.Join(r.Peers, "\t"))
	for _, c := range cells {
		i := slices.IndexFunc(r.Medians, func(x row) bool { return x.Workload == c.String() })
		if i < 0 {
			continue
		}
		fmt.Fprint(t, c.String())
		r.printValues(t, r.Medians[i])
	}
	_ = t.Flush()
	r.printErrors(w)
}

var errNoNamespace = errors.New("impaired paths need Linux, user namespaces and /dev/net/tun")
