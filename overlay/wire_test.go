package overlay

import (
	"bytes"
	"errors"
	"reflect"
	"testing"

	"github.com/idloc/idloc/internal/peerid"
)

func TestHelloRoundTrip(t *testing.T) {
	h := hello{flags: flagServer | flagIssuer, revocation: 7, chain: []byte("chain")}
	b := h.append([]byte{helloWelcome})
	got, err := readHello(bytes.NewReader(b))
	if err != nil || !reflect.DeepEqual(got, h) {
		t.Errorf("got %+v, %v", got, err)
	}
	for i := range b {
		if _, err := readHello(bytes.NewReader(b[:i])); err == nil {
			t.Errorf("accepted %d of %d bytes", i, len(b))
		}
	}
	_, err = readHello(bytes.NewReader(appendRefusal(nil, "your clock is wrong")))
	var refused *refusedError
	if !errors.As(err, &refused) || refused.reason != "your clock is wrong" {
		t.Errorf("refusal: %v", err)
	}
}

func TestOfferRoundTrip(t *testing.T) {
	q := offerRequest{ttl: 2, transaction: [16]byte{1}, target: peerid.ID{2}, from: peerid.ID{3}, offer: bytes.Repeat([]byte{4}, maxOffer)}
	b := q.append(nil)
	got, err := readOfferRequest(bytes.NewReader(b))
	if err != nil || !reflect.DeepEqual(got, q) {
		t.Errorf("got %+v, %v", got, err)
	}
	for i := range b {
		if _, err := readOfferRequest(bytes.NewReader(b[:i])); err == nil {
			t.Fatalf("accepted %d of %d bytes", i, len(b))
		}
	}
	q.offer = make([]byte, maxOffer+1)
	if _, err := readOfferRequest(bytes.NewReader(q.append(nil))); err == nil {
		t.Error("accepted an offer that is too long")
	}
	q.offer, q.ttl = nil, offerTTL+1
	if _, err := readOfferRequest(bytes.NewReader(q.append(nil))); err == nil {
		t.Error("accepted a TTL that is too high")
	}
	a := offerResponse{status: offerAnswered, forwarder: peerid.ID{9}, answer: []byte("answer")}
	if got, err := readOfferResponse(bytes.NewReader(a.append(nil))); err != nil || !reflect.DeepEqual(got, a) {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestConfirmRoundTrip(t *testing.T) {
	q := confirmQuestion{hops: 1, label: "mars", chain: []byte("chain")}
	if got, err := readConfirmQuestion(bytes.NewReader(q.append(nil))); err != nil || !reflect.DeepEqual(got, q) {
		t.Errorf("got %+v, %v", got, err)
	}
	a := confirmAnswer{status: confirmOK, text: "mars-2", chain: []byte("chain"), delegation: []byte("delegation")}
	if got, err := readConfirmAnswer(bytes.NewReader(a.append(nil))); err != nil || !reflect.DeepEqual(got, a) {
		t.Errorf("got %+v, %v", got, err)
	}
}

// fuzz runs a reader of a stream over b: it must not panic, and what it
// accepts must come out of append as it went in.
func fuzz[T interface{ append([]byte) []byte }](f *testing.F, read func(*bytes.Reader) (T, error), seeds ...[]byte) {
	for _, s := range seeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		v, err := read(r)
		if err != nil {
			return
		}
		if again := v.append(nil); !bytes.Equal(again, b[:len(b)-r.Len()]) {
			t.Errorf("%x read, %x written", b[:len(b)-r.Len()], again)
		}
	})
}

func FuzzHello(f *testing.F) {
	f.Add(hello{flags: 1, revocation: 2, chain: []byte("chain")}.append([]byte{helloWelcome}))
	f.Add(appendRefusal(nil, "no"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		h, err := readHello(r)
		if err != nil {
			return
		}
		if again := h.append([]byte{helloWelcome}); !bytes.Equal(again, b[:len(b)-r.Len()]) {
			t.Errorf("%x read, %x written", b, again)
		}
	})
}

func FuzzOfferRequest(f *testing.F) {
	fuzz(f, func(r *bytes.Reader) (offerRequest, error) { return readOfferRequest(r) },
		offerRequest{ttl: 3, target: peerid.ID{1}, from: peerid.ID{2}, offer: []byte("offer")}.append(nil))
}

func FuzzOfferResponse(f *testing.F) {
	fuzz(f, func(r *bytes.Reader) (offerResponse, error) { return readOfferResponse(r) },
		offerResponse{forwarder: peerid.ID{1}, answer: []byte("answer")}.append(nil))
}

func FuzzConfirmQuestion(f *testing.F) {
	fuzz(f, func(r *bytes.Reader) (confirmQuestion, error) { return readConfirmQuestion(r) },
		confirmQuestion{hops: 1, label: "mars", chain: []byte("chain")}.append(nil))
}

func FuzzConfirmAnswer(f *testing.F) {
	fuzz(f, func(r *bytes.Reader) (confirmAnswer, error) { return readConfirmAnswer(r) },
		confirmAnswer{text: "mars", chain: []byte("chain")}.append(nil))
}

func FuzzPeers(f *testing.F) {
	f.Add([]byte{0})
	f.Add(append(append([]byte{1}, make([]byte, 32)...), 1, 1, 8, 4, 127, 0, 0, 1, 0x91, 0x02, 0x10, 0x00))
	f.Fuzz(func(t *testing.T, b []byte) {
		if list, err := readPeers(bytes.NewReader(b)); err == nil && len(list) > peersMax {
			t.Errorf("%d peers", len(list))
		}
	})
}
