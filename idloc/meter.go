package idloc

import (
	"errors"
	"math"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/idloc/idloc/internal/event"
	"github.com/idloc/idloc/internal/pipe"
)

// meter holds the histograms of a node; all other metrics are read from
// Status and the layers' counters when somebody asks (nodeCollector). It is
// safe for concurrent use.
type meter struct {
	stage *prometheus.HistogramVec // by stage
	dial  *prometheus.HistogramVec // by network and result
	fails *prometheus.CounterVec   // Dials, by stage

	mu    sync.Mutex
	begun map[PeerID]setUp     // of pipes, that have not ended
	since map[PeerID]time.Time // when a pair was chosen whose pipe is not up yet
	up    map[PeerID]time.Time // when the newest pipe came up
}

// setUp is the set-up of a pipe under way.
type setUp struct {
	at    time.Time // when it began
	stage string    // that it is in
}

// sinceMax bounds the meter's maps; what is thrown away costs a measurement.
const sinceMax = 1024

// durations are buckets from a loopback's round trip to the longest Dial.
var durations = prometheus.ExponentialBuckets(0.0005, 2, 16)

// stages are the labels of the histogram of stages.
var stages = []string{"name", "offer", "check", "handshake", "connect"}

// failed are the labels of the counter of failed Dials.
var failed = []string{StageName, StageOffer, StageCheck, StageHandshake, StageConnect, notStage}

// notStage is for a Dial that failed in no stage: an address that is none, a node
// that was closed.
const notStage = "none"

func newMeter() *meter {
	m := &meter{
		stage: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "idloc_setup_stage_duration_seconds", Buckets: durations,
			Help: "Time that a stage of a set-up took: name, offer, check, handshake; connect is TCP's.",
		}, []string{"stage"}),
		dial: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "idloc_dial_duration_seconds", Buckets: durations,
			Help: "Time from the call of Dial to its return.",
		}, []string{"network", "result"}),
		fails: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "idloc_dial_failures_total",
			Help: "Dials that failed, by the stage that they had come to; none: before the first.",
		}, []string{"stage"}),
		begun: map[PeerID]setUp{}, since: map[PeerID]time.Time{}, up: map[PeerID]time.Time{},
	}
	// What has not happened yet is there as a zero, or a rate over it misses the
	// first time.
	for _, stage := range stages {
		m.stage.WithLabelValues(stage)
	}
	for _, network := range []string{"tcp", "udp"} {
		m.dial.WithLabelValues(network, "ok")
	}
	for _, stage := range failed {
		m.fails.WithLabelValues(stage)
	}
	return m
}

// observe takes the durations out of an event, and gives one that ends a
// set-up the time since the packet or the call that began it.
func (m *meter) observe(e *Event) {
	switch e.Kind {
	case event.Miss, event.OfferSent:
		m.mu.Lock()
		if _, ok := m.begun[e.Peer]; !ok {
			if len(m.begun) >= sinceMax {
				clear(m.begun)
			}
			m.begun[e.Peer] = setUp{e.Time, StageOffer}
		}
		m.mu.Unlock()
	case event.NameResolved:
		m.stage.WithLabelValues("name").Observe(e.Duration.Seconds())
	case event.AnswerReceived:
		m.stage.WithLabelValues("offer").Observe(e.Duration.Seconds())
		m.mu.Lock()
		m.entered(e.Peer, StageCheck)
		m.sinceLocked(e.Peer, e.Time) // the pipe may come up before the checks end
		m.mu.Unlock()
	case event.PairChosen:
		m.stage.WithLabelValues("check").Observe(e.Duration.Seconds())
		m.mu.Lock()
		if !m.up[e.Peer].After(e.Time.Add(-e.Duration)) { // else it is up already
			m.entered(e.Peer, StageHandshake)
			m.sinceLocked(e.Peer, e.Time)
		}
		m.mu.Unlock()
	case event.PipeUp, event.PipeFailed:
		m.mu.Lock()
		t, ok := m.since[e.Peer]
		delete(m.since, e.Peer)
		if begun, ok := m.begun[e.Peer]; ok && e.Duration == 0 {
			e.Duration = e.Time.Sub(begun.at)
		}
		delete(m.begun, e.Peer)
		if e.Kind == event.PipeUp {
			if len(m.up) >= sinceMax {
				clear(m.up)
			}
			m.up[e.Peer] = e.Time
		}
		m.mu.Unlock()
		if ok && e.Kind == event.PipeUp {
			m.stage.WithLabelValues("handshake").Observe(max(0, e.Time.Sub(t).Seconds()))
		}
	}
}

// sinceLocked notes when a pipe's keys could first be confirmed.
func (m *meter) sinceLocked(peer PeerID, at time.Time) {
	if len(m.since) >= sinceMax {
		clear(m.since)
	}
	m.since[peer] = at
}

// entered notes the stage of a set-up under way. m.mu is held.
func (m *meter) entered(peer PeerID, stage string) {
	if b, ok := m.begun[peer]; ok {
		b.stage = stage
		m.begun[peer] = b
	}
}

// at returns the stage that the set-up of a pipe to peer is in, "" if none is
// under way.
func (m *meter) at(peer PeerID) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.begun[peer].stage
}

// ready returns when TCP's handshake with a peer could begin: when the name
// was known, or when the pipe came up, if that was later.
func (m *meter) ready(named time.Time, peer PeerID) time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	if t := m.up[peer]; t.After(named) {
		return t
	}
	return named
}

// dialed counts a Dial that has ended, connect being what TCP's own handshake
// took, 0 if there was none.
func (m *meter) dialed(network string, took, connect time.Duration, err error) {
	if !strings.HasPrefix(network, "tcp") && !strings.HasPrefix(network, "udp") {
		network = "other" // a label must not be what a caller makes up
	}
	result := "ok"
	if err != nil {
		result = "error"
		stage := notStage
		var s *StageError
		if errors.As(err, &s) {
			result, stage = s.Stage, s.Stage
		}
		m.fails.WithLabelValues(stage).Inc()
	}
	m.dial.WithLabelValues(network, result).Observe(took.Seconds())
	if connect > 0 && err == nil {
		m.stage.WithLabelValues("connect").Observe(connect.Seconds())
	}
}

// metric is one family of nodeCollector.
type metric struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
}

func gauge(name, help string, labels ...string) metric {
	return metric{prometheus.NewDesc("idloc_"+name, help, labels, nil), prometheus.GaugeValue}
}

func counter(name, help string, labels ...string) metric {
	return metric{prometheus.NewDesc("idloc_"+name, help, labels, nil), prometheus.CounterValue}
}

var (
	mMembers   = gauge("members", "Members connected on the peer protocol.")
	mServers   = gauge("servers", "Connected members that serve the database.")
	mRouting   = gauge("routing_table_size", "Servers in the Kademlia routing table.")
	mRecords   = gauge("records", "Database records that this node keeps for the overlay.")
	mIsServer  = gauge("server", "1 if this node serves the database.")
	mReached   = gauge("reached", "1 if a member has connected to this node unasked.")
	mNotAfter  = gauge("membership_expiry_timestamp_seconds", "When the membership certificate ends, Unix time.")
	mRevSeq    = gauge("revocation_list_sequence", "Sequence number of the revocation list in force.")
	mPipes     = gauge("pipes", "Pipes that are up.")
	mLSIs      = gauge("lsis", "Peers that have locally significant identifiers.")
	mPaths     = gauge("paths", "Paths in use, by kind: direct, relayed by a member, through a TURN server.", "kind")
	mPipeUp    = gauge("pipe_up", "1 if a pipe to the peer is up.", "peer", "name")
	mPipeRTT   = gauge("pipe_rtt_seconds", "Smoothed round-trip time of the path in use; NaN if there is none, or it is not measured.", "peer", "name")
	mPipeMTU   = gauge("pipe_mtu_bytes", "Largest UDP payload sent to the peer; 0 without a pipe.", "peer", "name")
	mPipeBytes = counter("pipe_bytes_total", "Bytes of datagrams of all pipes to the peer, those that have ended included.", "peer", "name", "direction")
	mPipePkts  = counter("pipe_packets_total", "Datagrams of all pipes to the peer, those that have ended included.", "peer", "name", "direction")
	mPipeLost  = gauge("pipe_lost_packets", "Datagrams of the peer that have not come, since the last rekey; 0 without a pipe.", "peer", "name")
	mPipeSaved = counter("pipe_repaired_total", "Packets sent again of all pipes to the peer, those that have ended included.", "peer", "name")
	mPipeLate  = counter("pipe_repaired_late_total", "Of the packets sent again, those of which the first had only been late.", "peer", "name")
	mPipeShed  = counter("pipe_shed_total", "UDP datagrams that waited behind too many others for the path to the peer.", "peer", "name")
	mPipeMark  = counter("pipe_marked_total", "Datagrams to the peer that routers have marked for congestion (ECN).", "peer", "name")
	mPipeOn    = gauge("pipe_repair", "1 if the pipe repairs what its path loses, and paces.", "peer", "name")
	mPipeRate  = gauge("pipe_pacing_rate_bytes_per_second", "Rate at which a pipe that repairs may send; 0 without one.", "peer", "name")
	mPipeMin   = gauge("pipe_min_rtt_seconds", "Shortest round-trip time of late, of a pipe that repairs; NaN if there is none.", "peer", "name")
	mPipeFly   = gauge("pipe_in_flight_bytes", "Bytes sent and neither acknowledged nor lost, of a pipe that repairs; 0 without one.", "peer", "name")
	mPipeKeys  = counter("pipe_rekeys_total", "Rekeys of all pipes to the peer, those that have ended included.", "peer", "name")
	mPipeDrops = counter("pipe_drops_total", "Datagrams that the pipes to the peer dropped; a reason is there from its first on.", "peer", "name", "reason")
	mPeerDrops = counter("peers_drops_total", "Datagrams that the pipes to all peers dropped.", "reason")
	mRelays    = gauge("relay_bindings", "Pairs of members that this node forwards between.")
	mRelayPkts = counter("relay_packets_total", "Datagrams forwarded for others.")
	mRelayB    = counter("relay_bytes_total", "Bytes forwarded for others.")
	mRelayOver = counter("relay_over_quota_total", "Datagrams for others dropped because their member had used up its share.")
	mSockIn    = counter("socket_received_datagrams_total", "Datagrams that came in at the one port.", "kind")
	mSockInB   = counter("socket_received_bytes_total", "Bytes that came in at the one port.")
	mSockReads = counter("socket_reads_total", "Receive calls: datagrams per read tell what batching gains.")
	mSockOut   = counter("socket_sent_datagrams_total", "Datagrams sent from the one port.")
	mSockOutB  = counter("socket_sent_bytes_total", "Bytes sent from the one port.")
	mDrops     = counter("drops_total", "Datagrams and packets dropped outside peers' pipes; RUNBOOK.md says what each means.", "layer", "reason")
	mShimPkts  = counter("shim_packets_total", "Inner packets between the stack and the pipes.", "direction")
	mShimMiss  = counter("shim_misses_total", "Packets that had no mapping and made a set-up begin.")
	mConns     = gauge("conns", "Conns and listeners open.")
	mRetrans   = counter("tcp_retransmits_total", "TCP segments sent again.")
	mSegments  = counter("tcp_segments_total", "TCP segments.", "direction")
	mResets    = counter("tcp_resets_sent_total", "TCP resets sent.")
	mDatagrams = counter("udp_datagrams_total", "Inner UDP datagrams.", "direction")
	mMissed    = counter("udp_receive_buffer_drops_total", "Inner UDP datagrams dropped for a full receive buffer.")
	mRefused   = counter("admit_refused_total", "Inbound flows that Config.Admit or the grants refused.")
)

var allMetrics = []metric{
	mMembers, mServers, mRouting, mRecords, mIsServer, mReached, mNotAfter, mRevSeq, mPipes, mLSIs,
	mPaths, mPipeUp, mPipeRTT, mPipeMTU, mPipeBytes, mPipePkts, mPipeLost, mPipeSaved, mPipeLate, mPipeShed, mPipeMark, mPipeOn, mPipeRate, mPipeMin, mPipeFly, mPipeKeys, mPipeDrops, mPeerDrops,
	mRelays, mRelayPkts, mRelayB, mRelayOver,
	mSockIn, mSockInB, mSockReads, mSockOut, mSockOutB, mDrops, mShimPkts, mShimMiss,
	mConns, mRetrans, mSegments, mResets, mDatagrams, mMissed, mRefused,
}

// nodeCollector reads a node's counters when metrics are gathered.
type nodeCollector struct{ n *Node }

func (c nodeCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, m := range allMetrics {
		ch <- m.desc
	}
	c.n.meter.stage.Describe(ch)
	c.n.meter.dial.Describe(ch)
	c.n.meter.fails.Describe(ch)
}

func (c nodeCollector) Collect(ch chan<- prometheus.Metric) {
	c.n.meter.stage.Collect(ch)
	c.n.meter.dial.Collect(ch)
	c.n.meter.fails.Collect(ch)
	to := sink(ch)
	s := c.n.Status()
	to.overlay(c.n, &s)
	to.pipes(c.n, &s)
	to.port(c.n)
	to.stack(c.n)
}

// sink is where a collector's metrics go.
type sink chan<- prometheus.Metric

func (k sink) put(m metric, v float64, labels ...string) {
	k <- prometheus.MustNewConstMetric(m.desc, m.kind, v, labels...)
}

func (k sink) count(m metric, v uint64, labels ...string) { k.put(m, float64(v), labels...) }

// overlay is this node's part in the overlay.
func (k sink) overlay(n *Node, s *Status) {
	k.put(mMembers, float64(s.Self.Members))
	k.put(mServers, float64(s.Self.Servers))
	k.put(mRouting, float64(s.Self.Routing))
	k.put(mRecords, float64(s.Self.Records))
	k.put(mIsServer, truth(s.Self.Server))
	k.put(mReached, truth(s.Self.Reached))
	if !s.Self.NotAfter.IsZero() {
		k.put(mNotAfter, float64(s.Self.NotAfter.Unix()))
	}
	k.count(mRevSeq, s.Self.Revoked)
	k.put(mLSIs, float64(len(n.table.Entries())))
	k.put(mRelays, float64(s.Self.Relay.Bindings))
	k.count(mRelayPkts, s.Self.Relay.Packets)
	k.count(mRelayB, s.Self.Relay.Bytes)
	k.count(mRelayOver, s.Self.Relay.OverQuota)
}

// pipes are those to peers: of each peer that the node knows, and of each that it
// had a pipe to.
func (k sink) pipes(n *Node, s *Status) {
	totals, dropped := n.pipes.Load().Totals()
	pipes, kinds := 0, map[string]int{"direct": 0, "relayed": 0, "turn": 0, "tcp": 0}
	for _, p := range s.Peers {
		id, name := p.ID.String(), p.Name
		k.put(mPipeUp, truth(p.Connected), id, name)
		rtt := math.NaN()
		if p.Connected && p.RTT > 0 {
			rtt = p.RTT.Seconds()
		}
		k.put(mPipeRTT, rtt, id, name)
		k.put(mPipeMTU, float64(p.MTU), id, name)
		k.count(mPipeLost, p.Lost, id, name)
		k.repair(&p, id, name)
		k.totals(totals[p.ID], id, name)
		delete(totals, p.ID)
		if !p.Connected {
			continue
		}
		pipes++
		for _, path := range p.Paths {
			if path.Active {
				kinds[path.Kind]++
			}
		}
	}
	for id, t := range totals { // whom the node has forgotten
		k.totals(t, id.String(), n.ov.NameOf(id))
	}
	k.put(mPipes, float64(pipes))
	for kind, count := range kinds {
		k.put(mPaths, float64(count), kind)
	}
	for _, reason := range pipe.DropReasons() {
		k.count(mPeerDrops, dropped[reason], reason)
	}
}

// repair is what a pipe that repairs knows of its path.
func (k sink) repair(p *PeerStatus, id, name string) {
	r := RepairStatus{}
	if p.Connected && p.Repair.On {
		r = p.Repair
	}
	shortest := math.NaN()
	if r.RTT > 0 {
		shortest = r.RTT.Seconds()
	}
	k.put(mPipeOn, truth(r.On), id, name)
	k.put(mPipeRate, r.Rate/8, id, name)
	k.put(mPipeMin, shortest, id, name)
	k.put(mPipeFly, float64(r.InFlight), id, name)
}

func (k sink) totals(t pipe.Totals, id, name string) {
	k.count(mPipeBytes, t.BytesSent, id, name, "sent")
	k.count(mPipeBytes, t.BytesReceived, id, name, "received")
	k.count(mPipePkts, t.PacketsSent, id, name, "sent")
	k.count(mPipePkts, t.PacketsReceived, id, name, "received")
	k.count(mPipeKeys, t.Rekeys, id, name)
	k.count(mPipeSaved, t.Repaired, id, name)
	k.count(mPipeLate, t.Late, id, name)
	k.count(mPipeShed, t.Shed, id, name)
	k.count(mPipeMark, t.Marked, id, name)
	for reason, v := range t.Drops {
		k.count(mPipeDrops, v, id, name, reason)
	}
}

// port is what the UDP port has carried, and what was dropped on the way up.
func (k sink) port(n *Node) {
	sock := n.sock.Stats()
	k.count(mSockIn, sock.Pipe, "pipe")
	k.count(mSockIn, sock.STUN, "stun")
	k.count(mSockIn, sock.QUIC, "quic")
	k.count(mSockIn, sock.Other, "other")
	k.count(mSockInB, sock.Received)
	k.count(mSockReads, sock.Reads)
	k.count(mSockOut, sock.Sent)
	k.count(mSockOutB, sock.SentBytes)
	drops := n.drops()
	for _, d := range allDrops {
		k.count(mDrops, drops[d.key()], d.layer, d.reason)
	}
	sh := n.shim.Stats()
	k.count(mShimPkts, sh.Out, "sent")
	k.count(mShimPkts, sh.In, "received")
	k.count(mShimMiss, sh.Misses)
}

// stack is TCP and UDP.
func (k sink) stack(n *Node) {
	st := n.stack.Stats()
	k.put(mConns, float64(st.Conns))
	k.count(mRetrans, st.Retransmits)
	k.count(mSegments, st.SegmentsIn, "received")
	k.count(mSegments, st.SegmentsOut, "sent")
	k.count(mResets, st.ResetsOut)
	k.count(mDatagrams, st.DatagramsIn, "received")
	k.count(mDatagrams, st.DatagramsOut, "sent")
	k.count(mMissed, st.DatagramsMissed)
	k.count(mRefused, st.Refused)
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// Collector returns the node's metrics for a prometheus.Registry of the program's
// own; libp2p's are not among them. Names begin with idloc_, and the help of each
// says what it counts, in which unit. Counters count from the node's start and do
// not go back when a pipe ends. A program with several nodes labels them:
//
//	prometheus.WrapRegistererWith(prometheus.Labels{"node": node.Name()}, registry).MustRegister(node.Collector())
//
// It may be called, and collects, until and after Close.
func (n *Node) Collector() prometheus.Collector { return nodeCollector{n} }

// gatherer returns the node's metrics, and libp2p's beside them if those are
// asked for.
func (n *Node) gatherer(libp2p bool) prometheus.Gatherer {
	own := prometheus.NewRegistry()
	own.MustRegister(n.Collector())
	if !libp2p {
		return own
	}
	return prometheus.Gatherers{own, n.ov.Metrics()}
}
