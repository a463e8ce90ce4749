package idloc

import (
	"context"
	"errors"
	"net"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/idloc/idloc/internal/event"
)

// tracked is one Dial under way: how long each part of it took, for the event
// at its end, the histograms and, when the caller's context carries an
// OpenTelemetry span that records, a trace. It is used by one goroutine.
type tracked struct {
	n                *Node
	network, address string
	start            time.Time
	named            time.Time // when the peer was known
	peer             PeerID

	// Of a traced Dial only.
	ctx    context.Context // with the Dial's span
	tracer trace.Tracer
	span   trace.Span
	events *watcher
}

// tracerName is the instrumentation scope of a Dial's spans.
const tracerName = "github.com/idloc/idloc/idloc"

func (n *Node) track(ctx context.Context, network, address string) *tracked {
	t := &tracked{n: n, network: network, address: address, start: time.Now()}
	parent := trace.SpanFromContext(ctx)
	if !parent.IsRecording() {
		return t
	}
	t.tracer = parent.TracerProvider().Tracer(tracerName)
	t.ctx, t.span = t.tracer.Start(ctx, "idloc.Dial", trace.WithTimestamp(t.start), trace.WithSpanKind(trace.SpanKindClient),
		trace.WithAttributes(attribute.String("network.transport", strings.TrimRight(network, "46")), attribute.String("idloc.address", address)))
	t.events = n.hub.subscribe()
	return t
}

// found is called when the name was resolved.
func (t *tracked) found(peer PeerID) { t.peer, t.named = peer, time.Now() }

// end is called once, when the Dial returns.
func (t *tracked) end(err error) {
	now := time.Now()
	e := Event{Kind: event.Dialed, Time: now, Peer: t.peer, Detail: t.network, Duration: now.Sub(t.start)}
	if host, _, errSplit := net.SplitHostPort(t.address); errSplit == nil {
		e.Name = host
	}
	if err != nil {
		e.Err = err.Error()
		var s *StageError
		if errors.As(err, &s) {
			e.Stage = s.Stage
		}
	}
	t.n.emit(e)
	var connect time.Duration
	if strings.HasPrefix(t.network, "tcp") && !t.named.IsZero() {
		connect = now.Sub(t.n.meter.ready(t.named, t.peer))
	}
	if t.events != nil {
		t.spans(now, e.Stage, connect, err)
	}
	t.n.meter.dialed(t.network, now.Sub(t.start), connect, err)
}

// spans writes the stages of the Dial as child spans, from the events that
// were published meanwhile, and ends the Dial's own. A Dial that found its
// pipe up has the stages name and connect only.
func (t *tracked) spans(end time.Time, failed string, connect time.Duration, err error) {
	defer t.n.hub.unsubscribe(t.events)
	text := ""
	if err != nil {
		text = err.Error()
	}
	if t.named.IsZero() {
		t.child(StageName, t.start, end, text)
	} else {
		t.child(StageName, t.start, t.named, "", attribute.String("idloc.peer", t.peer.String()))
	}
	told := t.stages(failed) || t.named.IsZero() // a span tells where it failed
	if connect > 0 && (err == nil || failed == StageConnect || failed == "") {
		t.child(StageConnect, end.Add(-connect), end, text)
	}
	if failed != "" && failed != StageConnect && !told {
		// It failed for a reason that an earlier attempt has met.
		t.child(failed, t.named, end, text)
	}
	if err != nil {
		t.span.RecordError(err, trace.WithTimestamp(end))
		t.span.SetStatus(codes.Error, text)
	}
	t.span.End(trace.WithTimestamp(end))
}

// child writes a span of the Dial's: one stage.
func (t *tracked) child(stage string, from, to time.Time, err string, attrs ...attribute.KeyValue) {
	_, s := t.tracer.Start(t.ctx, "idloc."+strings.ReplaceAll(stage, " ", "_"), trace.WithTimestamp(from), trace.WithAttributes(attrs...))
	if err != "" {
		s.SetStatus(codes.Error, err)
	}
	s.End(trace.WithTimestamp(to))
}

// stages writes those of the pipe, and says whether one of them is where the
// Dial has failed.
func (t *tracked) stages(failed string) (told bool) {
	var ready, begun time.Time // ready: the keys could be confirmed
	for e, ok := t.events.pop(); ok; e, ok = t.events.pop() {
		if e.Peer != t.peer || t.peer.IsZero() {
			continue
		}
		switch e.Kind {
		case event.Miss:
			begun = e.Time
		case event.AnswerReceived:
			t.child(StageOffer, e.Time.Add(-e.Duration), e.Time, "", attribute.String("idloc.via", e.Via.String()))
			ready, begun = e.Time, e.Time // the pipe may come up before the checks end
		case event.PairChosen:
			ready, begun = e.Time, e.Time
			t.child(StageCheck, e.Time.Add(-e.Duration), e.Time, "", attribute.String("network.peer.address", e.Remote.String()))
		case event.PipeUp:
			if !ready.IsZero() {
				t.child(StageHandshake, ready, e.Time, "", attribute.String("idloc.aead", e.Detail))
			}
		case event.PipeFailed:
			if begun.IsZero() {
				begun = t.named
			}
			if e.Stage != "" {
				told = told || e.Stage == failed
				t.child(e.Stage, begun, e.Time, e.Err)
			}
		}
	}
	return told
}
