package injecttoken

import (
	"context"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
)

// attempt is one request on its way to the upstream, as a context of its own:
// all that it needs beside the copy of the request, in one allocation.
//
// It belongs to one RoundTrip. The transport beneath calls relay while that
// lasts, and whoever reads the answer calls Read afterwards.
type attempt struct {
	context.Context // reverse_proxy's
	url             url.URL
	trace           httptrace.ClientTrace
	relay           func(int, textproto.MIMEHeader) error // reverse_proxy's
	injection       *injection
	injected        bool   // whether there is a token in it
	hidden          hidden // that token

	io.ReadCloser // the body of the answer
	resp          *http.Response
}

// newAttempt returns a copy of a request that says the same, with a URL of its
// own: the transport beneath writes the scheme into it.
func (in *injection) newAttempt(req *http.Request) (*attempt, *http.Request) {
	a := &attempt{Context: req.Context(), url: *req.URL, injection: in}
	out := req.WithContext(a)
	out.URL = &a.url
	if trace := httptrace.ContextClientTrace(a.Context); trace != nil && trace.Got1xxResponse != nil {
		a.trace, a.relay = *trace, trace.Got1xxResponse
		a.trace.Got1xxResponse = a.relayScrubbed
	}
	return a, out
}

// Value is the context's. In the place of reverse_proxy's trace it returns ours:
// httptrace would put one behind the other, by reflection, at each request.
func (a *attempt) Value(key any) any {
	value := a.Context.Value(key)
	if _, ok := value.(*httptrace.ClientTrace); ok && a.relay != nil {
		return &a.trace
	}
	return value
}

// relayScrubbed hands answers before the answer to the caller (103 Early
// Hints), without the token.
func (a *attempt) relayScrubbed(status int, header textproto.MIMEHeader) error {
	if a.injected {
		a.injection.scrub(http.Header(header), a.hidden)
	}
	return a.relay(status, header)
}

// scrubAnswer takes the token out of what an answer repeats of the request, so
// that neither the caller nor a log comes to see it.
func (a *attempt) scrubAnswer(resp *http.Response, method string) {
	if len(a.injection.params) > 0 && isRedirect(resp) {
		dropBody(resp, method)
	}
	a.injection.scrub(resp.Header, a.hidden)
	resp.Status = a.hidden.in(resp.Status)
	if resp.StatusCode != http.StatusSwitchingProtocols && resp.Body != nil && resp.Body != http.NoBody {
		a.ReadCloser, a.resp = resp.Body, resp
		resp.Body = a
	}
}

// Read reads the body of the answer. Its errors and trailers do not hold the
// token.
func (a *attempt) Read(p []byte) (int, error) {
	n, err := a.ReadCloser.Read(p)
	if err == nil {
		return n, nil
	}
	a.hidden.inHeader(a.resp.Trailer)
	if err != io.EOF {
		err = a.hidden.quiet(err)
	}
	return n, err
}
