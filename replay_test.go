package injecttoken

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"time"
)

// newTestBody is a body of a request with what its caller sends.
func newTestBody(t *testing.T, source io.Reader, limit int64) (*http.Request, *body) {
	t.Helper()
	in, m := newInjection(nil, nil, nil)
	if m != nil {
		t.Fatal(m)
	}
	req := newTestRequest(t, http.MethodPost, "", io.NopCloser(source))
	return req, in.newBody(req, limit)
}

// again has the body read once more, if that is possible.
func again(t *testing.T, b *body) bool {
	if !b.hold(t.Context()) {
		return false
	}
	b.rewind()
	return true
}

// view attaches one more attempt.
func (b *body) view(req *http.Request) io.ReadCloser {
	out := req.WithContext(req.Context())
	b.attach(out)
	return out.Body
}

// inPieces reads pieces of random sizes.
type inPieces struct{ io.Reader }

func (r inPieces) Read(p []byte) (int, error) {
	return r.Reader.Read(p[:1+rand.IntN(len(p))]) //nolint:gosec // sizes for a test
}

func TestWhatOneAttemptHasReadTheNextOneReadsAgain(t *testing.T) {
	for range 2000 {
		sent := make([]byte, rand.IntN(5000)) //nolint:gosec // sizes for a test
		for i := range sent {
			sent[i] = byte(rand.IntN(256)) //nolint:gosec // as above
		}
		req, b := newTestBody(t, inPieces{bytes.NewReader(sent)}, 8192)
		first := b.view(req)
		read := make(chan error)
		go func() { // as a transport does, until it gets an error
			_, err := io.Copy(io.Discard, inPieces{first})
			read <- err
		}()
		if !again(t, b) {
			t.Fatal("the body is small, and cannot be read again")
		}
		got, err := io.ReadAll(inPieces{b.view(req)})
		if err != nil || !bytes.Equal(got, sent) {
			t.Fatalf("of %d bytes %d came again: %v", len(sent), len(got), err)
		}
		if err := <-read; err != nil && !errors.Is(err, errAbandoned) {
			t.Fatalf("the abandoned attempt got %v", err)
		}
	}
}

func TestABodyLargerThanTheBufferPassesAndCannotBeReadAgain(t *testing.T) {
	const limit = 1000
	for size := limit - 2; size <= limit+2; size++ {
		sent := strings.Repeat("x", size)
		req, b := newTestBody(t, inPieces{strings.NewReader(sent)}, limit)
		got, err := io.ReadAll(b.view(req))
		if err != nil || string(got) != sent {
			t.Fatalf("of %d bytes %d came: %v", size, len(got), err)
		}
		if can := again(t, b); can != (size <= limit) {
			t.Errorf("%d bytes can be read again: %v", size, can)
		}
		if size > limit && b.kept != nil {
			t.Error("the buffer is kept for nothing")
		}
	}
}

func TestABodyWhoseCallerStallsCannotBeReadAgain(t *testing.T) {
	source, caller := io.Pipe()
	stalls := make(chan struct{})
	req, b := newTestBody(t, io.MultiReader(strings.NewReader("half"), gate(stalls), source), 1000)
	first := b.view(req)
	go func() { _, _ = io.Copy(io.Discard, first) }()
	<-stalls
	began := time.Now()
	if again(t, b) {
		t.Error("it can")
	}
	if took := time.Since(began); took < stalled {
		t.Errorf("the caller was given %v", took)
	}
	gone, leave := context.WithCancel(t.Context())
	leave()
	if b.hold(gone) {
		t.Error("it can for a caller who has left")
	}
	caller.Close()
}

func TestABodyThatBrokeOffIsNotSentAgain(t *testing.T) {
	req, b := newTestBody(t, io.MultiReader(strings.NewReader("half"), broken{}), 1000)
	_, _ = io.ReadAll(b.view(req))
	if again(t, b) {
		t.Error("it is")
	}
}

// gate is closed when it is read, and holds nothing.
type gate chan struct{}

func (s gate) Read([]byte) (int, error) { close(s); return 0, io.EOF }

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("the caller has left") }

// closing counts how often a body was closed.
type closingBody struct {
	io.Reader
	closed int
}

func (c *closingBody) Close() error { c.closed++; return nil }

func TestTheSourceIsClosedWithTheLastView(t *testing.T) {
	for _, closedFirst := range []bool{false, true} {
		in, _ := newInjection(nil, nil, nil)
		source := &closingBody{Reader: strings.NewReader("text")}
		req := newTestRequest(t, http.MethodPost, "", source)
		req.Body = source
		b := in.newBody(req, 1000)
		first := b.view(req)
		first.Close()
		if !again(t, b) {
			t.Fatal("it cannot be read again")
		}
		last := b.view(req)
		if closedFirst {
			last.Close()
		}
		if source.closed != 0 {
			t.Error("the source was closed by a view that was not the last")
		}
		b.settle()
		if !closedFirst {
			last.Close()
		}
		first.Close()
		last.Close()
		if source.closed != 1 {
			t.Errorf("the source was closed %d times", source.closed)
		}
	}
}

func TestEachAttemptHasTrailersOfItsOwn(t *testing.T) {
	in, _ := newInjection(nil, nil, nil)
	req := newTestRequest(t, http.MethodPost, "", nil)
	req.Trailer = http.Header{"X-Sum": nil, "Authorization": nil}
	req.Body = io.NopCloser(&fills{strings.NewReader("text"), req.Trailer})
	req.ContentLength = -1
	b := in.newBody(req, 1000)
	for range 2 {
		out := req.WithContext(t.Context())
		b.attach(out)
		if _, announced := out.Trailer["X-Sum"]; !announced || len(out.Trailer) != 1 {
			t.Errorf("announced %v", out.Trailer)
		}
		if _, err := io.ReadAll(out.Body); err != nil {
			t.Fatal(err)
		}
		if out.Trailer.Get("X-Sum") != "1" || len(out.Trailer) != 1 {
			t.Errorf("sent %v", out.Trailer)
		}
		if !again(t, b) {
			t.Fatal("it cannot be read again")
		}
	}
}

// fills puts values into trailers when it ends.
type fills struct {
	io.Reader
	trailer http.Header
}

func (f *fills) Read(p []byte) (int, error) {
	n, err := f.Reader.Read(p)
	if err == io.EOF {
		f.trailer.Set("X-Sum", "1")
		f.trailer.Set("Authorization", "the caller's")
	}
	return n, err
}

func TestWhatIsLetGoGoesOn(t *testing.T) {
	req, b := newTestBody(t, inPieces{strings.NewReader(strings.Repeat("x", 5000))}, 8192)
	view := b.view(req)
	if _, err := io.ReadFull(view, make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	if !b.hold(t.Context()) {
		t.Fatal("it cannot be held")
	}
	rest := make(chan int)
	go func() {
		text, _ := io.ReadAll(view)
		rest <- len(text)
	}()
	select {
	case n := <-rest:
		t.Errorf("%d bytes were read meanwhile", n)
	case <-time.After(50 * time.Millisecond):
	}
	b.letGo()
	if n := <-rest; n != 4900 {
		t.Errorf("%d bytes came afterwards", n)
	}
}
