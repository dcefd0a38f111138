package injecttoken

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync/atomic"
	"time"
)

// stalled is how long a read of the caller's body may be under way before the
// caller counts as one who stalls.
const stalled = time.Second

// body is the body of a request, of which each attempt has a view of its own.
// What has been read is kept while it streams, so that the request can be sent
// once more; nothing is read ahead.
//
// A transport may go on reading for an attempt that was refused long ago. So
// there is one source, one buffer, and a cursor for each view: a view that was
// abandoned gets an error without touching the source, and what a read that was
// under way has brought is in the buffer before the next view begins.
//
// Whoever is in turn reads the source and touches what is below. It is a channel
// and no mutex, since a read may hang on a slow caller.
type body struct {
	source    io.ReadCloser
	trailer   http.Header // the caller's, which the source fills at its end
	injection *injection
	turn      chan struct{}

	limit int    // of the buffer; less than 0: nothing is kept
	kept  []byte // all that was read
	err   error  // that the source has ended with

	current atomic.Pointer[view] // the one that may read
	settled atomic.Bool          // there will be no other
	done    atomic.Bool          // the source is to be closed
	closed  bool
}

// view is the body as one attempt sees it.
type view struct {
	body    *body
	trailer http.Header // of the attempt, which the transport beneath reads at the end
	cursor  int         // in what is kept
	closed  atomic.Bool
}

var errAbandoned = errors.New("the request is being sent once more")

// newBody takes the body of a request, of which limit bytes can be kept; less
// than 1 keeps nothing. It returns nil where there is no body.
func (in *injection) newBody(req *http.Request, limit int64) *body {
	if req.Body == nil || req.Body == http.NoBody {
		return nil
	}
	switch {
	case limit == 0 || req.ContentLength > limit:
		limit = -1
	case req.ContentLength > 0:
		limit = req.ContentLength
	}
	return &body{source: req.Body, trailer: req.Trailer, injection: in, limit: int(limit), turn: make(chan struct{}, 1)}
}

// replayable says whether the request could be sent twice, as far as is known
// before anything was read.
func (b *body) replayable() bool { return b == nil || b.limit >= 0 }

// attach gives an attempt its view of the body, and trailers of its own.
func (b *body) attach(out *http.Request) {
	if b == nil {
		return
	}
	v := &view{body: b}
	if b.trailer != nil {
		v.trailer = make(http.Header, len(b.trailer))
		b.copyTrailer(v.trailer)
		out.Trailer = v.trailer
	}
	b.current.Store(v)
	out.Body = v
}

// copyTrailer leaves out the caller's values in the places of the token.
func (b *body) copyTrailer(to http.Header) {
	clear(to)
	for field, values := range b.trailer {
		if !b.injection.isField(field) {
			to[field] = values
		}
	}
}

// hold stops the attempt that reads the body, so that another can begin. It
// returns false where that is not possible: more was read than is kept, or the
// caller stalls or has broken off. What is held is to be let go or rewound.
func (b *body) hold(ctx context.Context) bool {
	if b == nil {
		return true
	}
	timer := time.NewTimer(stalled)
	defer timer.Stop()
	select {
	case b.turn <- struct{}{}:
	case <-timer.C:
		return false
	case <-ctx.Done():
		return false
	}
	if b.limit < 0 || b.err != nil && b.err != io.EOF {
		b.release()
		return false
	}
	return true
}

// letGo has the attempt go on that was held: its refusal is the answer, and would
// be cut off with its request.
func (b *body) letGo() {
	if b != nil {
		b.release()
	}
}

// rewind takes the body from the attempt that is held.
func (b *body) rewind() {
	if b != nil {
		b.current.Store(nil)
		b.release()
	}
}

// wasWhole says whether an attempt has read the body to its end. Nobody reads it
// at present.
func (b *body) wasWhole() bool {
	b.turn <- struct{}{}
	defer b.release()
	return b.err == io.EOF
}

// settle says that there will be no other view, so that nothing is kept any
// longer.
func (b *body) settle() {
	if b == nil {
		return
	}
	b.settled.Store(true)
	v := b.current.Load()
	select {
	case b.turn <- struct{}{}:
		if v != nil {
			v.forget()
		}
		b.release()
	default: // the read that is under way sees to it
	}
	if v != nil && v.closed.Load() {
		b.finish()
	}
}

// forget gives up what is kept, as soon as nobody will read it. The caller is in
// turn.
func (v *view) forget() {
	if v.body.settled.Load() && v.cursor >= len(v.body.kept) {
		v.body.limit, v.body.kept, v.cursor = -1, nil, 0
	}
}

// finish closes the source, if need be when the read that is under way has
// ended: not every body can be closed during a read.
func (b *body) finish() {
	b.done.Store(true)
	select {
	case b.turn <- struct{}{}:
		b.release()
	default:
	}
}

// release ends a turn. Whoever could not have it to close the source meanwhile
// has left a note.
func (b *body) release() {
	for {
		if b.done.Load() && !b.closed {
			b.closed = true
			_ = b.source.Close()
		}
		closed := b.closed
		<-b.turn
		if closed || !b.done.Load() {
			return
		}
		select {
		case b.turn <- struct{}{}:
		default:
			return
		}
	}
}

// Read reads what is kept, and then from the source.
func (v *view) Read(p []byte) (int, error) {
	b := v.body
	b.turn <- struct{}{}
	defer b.release()
	switch {
	case b.current.Load() != v:
		return 0, errAbandoned
	case v.cursor < len(b.kept):
		n := copy(p, b.kept[v.cursor:])
		v.cursor += n
		return n, nil
	case b.err != nil:
		return 0, v.end()
	}
	v.forget()
	n, err := b.source.Read(p)
	if v.cursor += n; v.cursor <= b.limit {
		b.keep(p[:n])
	} else {
		b.limit, b.kept, v.cursor = -1, nil, 0
	}
	v.forget()
	if err != nil {
		b.err = err
		return n, v.end()
	}
	return n, nil
}

// keep adds to what is kept. The buffer doubles, and grows no larger than the
// body.
func (b *body) keep(p []byte) {
	if need := len(b.kept) + len(p); need > cap(b.kept) {
		grown := make([]byte, len(b.kept), min(max(need, 2*cap(b.kept)), max(need, b.limit)))
		copy(grown, b.kept)
		b.kept = grown
	}
	b.kept = append(b.kept, p...)
}

// end returns what the source has ended with. The caller is in turn.
func (v *view) end() error {
	if v.trailer != nil {
		v.body.copyTrailer(v.trailer)
	}
	return v.body.err
}

// Close closes the source where this is the last view.
func (v *view) Close() error {
	v.closed.Store(true)
	if v.body.settled.Load() {
		v.body.finish()
	}
	return nil
}
