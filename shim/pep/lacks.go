package pep

// gap is what a flow lacked when what came at its end went up.
type gap struct {
	open     bool
	from, to uint32 // sequence numbers
	shown    stamp  // of the segment after it
}

// lacks is what went up with something missing before it: of sequence numbers up to
// from it is sure that all did, and none is missing from to on.
type lacks struct {
	open     bool
	from, to uint32
}

// begin notes that what lies between from and to does not go up before the rest.
func (l *lacks) begin(from, to uint32) {
	if !l.open {
		l.open, l.from = true, from
	}
	l.to = to
}

// fill notes that a segment goes up all the same.
func (l *lacks) fill(seq, end uint32) {
	if !l.open || int32(seq-l.from) > 0 || int32(end-l.from) <= 0 {
		return
	}
	l.from = end
	l.open = int32(l.to-end) > 0
}

// sure is the sequence number up to which all went up, of a flow that is at next.
func (l *lacks) sure(next uint32) uint32 {
	if !l.open {
		return next
	}
	if int32(next-l.from) > farBeyond {
		l.open = false
		return next
	}
	return l.from
}
