package netconn

import "io"

// Copy writes to w what r has until its end, by pieces of buf. It is what
// ReadFrom and WriteTo of a conn are made of: io.Copy would call those.
func Copy(w io.Writer, r io.Reader, buf []byte) (n int64, err error) {
	for {
		k, rerr := r.Read(buf)
		if k > 0 { // an end alone is nothing to write, however long it took
			m, werr := w.Write(buf[:k])
			n += int64(m)
			if werr == nil && m < k {
				werr = io.ErrShortWrite
			}
			if werr != nil {
				return n, werr
			}
		}
		switch {
		case rerr == io.EOF:
			return n, nil
		case rerr != nil:
			return n, rerr
		}
	}
}
