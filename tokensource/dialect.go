package tokensource

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"
)

// exchange is one token request on its way: the http.RoundTripper beneath
// x/oauth2, which speaks only RFC 6749. It sends the request as this provider
// wants it and reads the answer as this provider gives it.
type exchange struct {
	settings *settings
	config   *Config
	grant    string
	refresh  bool
	read     func(*http.Response) *Error // of an answer that holds no token; nil: it is to hold one
	permit   func() error                // nil: nobody wants to know
	clock    time.Time                   // of what is signed
	proof    *proofKey                   // nil: none is wanted
	nonce    string                      // for the proof

	// Written by RoundTrip, read when x/oauth2 has returned.
	answered time.Time
	skew     time.Duration // by which the provider's clock is ahead
	answer   *answer
	problem  *Error
}

// RoundTrip rewrites the request, sends it and reads the answer. It succeeds
// only where there is a token.
func (x *exchange) RoundTrip(standard *http.Request) (*http.Response, error) {
	req, err := x.rewrite(standard)
	if err != nil {
		return nil, err
	}
	if x.refresh && x.permit != nil {
		if err := x.permit(); err != nil {
			return nil, err
		}
		if req.Body != nil && req.Body != http.NoBody {
			req.Body = &permittedBody{ReadCloser: req.Body, permit: x.permit}
			req.GetBody = nil
		}
	}
	resp, err := x.config.Transport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	x.answered = time.Now()
	if date, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		x.skew = date.Sub(x.answered).Round(time.Second)
	}
	x.nonce = resp.Header.Get("DPoP-Nonce")
	if x.read != nil {
		x.problem = x.read(resp)
	} else {
		x.answer, x.problem = x.config.Response.read(resp, x.answered)
	}
	if x.problem != nil {
		if err := req.Context().Err(); err != nil {
			x.problem = nil // the answer was cut off, and is not to blame
			return nil, err
		}
		return nil, x.problem
	}
	return x.normalized(standard), nil
}

// rewrite turns the request of the RFC into the provider's.
func (x *exchange) rewrite(standard *http.Request) (*http.Request, error) {
	body, err := io.ReadAll(standard.Body)
	standard.Body.Close()
	if err != nil {
		return nil, err
	}
	texts, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, err
	}
	req := standard.Clone(standard.Context())
	if x.grant == "custom" {
		texts = url.Values{}
	} else {
		addAssertions(x.settings, texts)
	}
	if x.settings.placesRefreshToken {
		texts.Del("refresh_token")
	}
	if x.read != nil { // nor does it ask for one by a grant
		texts.Del("grant_type")
	}
	p := &parameters{texts: texts, json: map[string]json.RawMessage{}}
	p.apply(x.settings.params)
	p.apply(x.settings.request.Params)

	req.Method = x.settings.request.Method
	given := bodyParameters(x.settings, p.texts)
	placeCredentials(req, x.config, x.settings, p.texts)
	if body := x.settings.request.Body; body != nil {
		err = body.write(req, given)
	} else {
		err = p.encode(req, x.settings.request.Encoding)
	}
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", x.config.UserAgent)
	// A connection of its own: on a kept one, net/http sends a GET again by
	// itself where the connection breaks, although the provider may have got it;
	// and renewals are further apart than connections are kept.
	req.Close = true
	for _, h := range x.settings.request.Header {
		if http.CanonicalHeaderKey(h.Name) == "Host" {
			req.Host = h.Value
			continue
		}
		req.Header.Set(h.Name, h.Value)
	}
	if x.proof != nil {
		proof, err := x.proof.sign(req.Method, x.settings.url, "", x.nonce, x.clock)
		if err != nil {
			return nil, err
		}
		req.Header.Set("DPoP", proof)
	}
	return req, nil
}

// normalized tells x/oauth2 that there is a token. What the token is has been
// read already, with more lenience than x/oauth2 has.
func (x *exchange) normalized(req *http.Request) *http.Response {
	return &http.Response{
		StatusCode: http.StatusOK,
		Header:     http.Header{"Content-Type": {"application/json"}},
		Body:       io.NopCloser(strings.NewReader(`{"access_token":"read","token_type":"Bearer"}`)),
		Request:    req,
	}
}

// result returns what the exchange came to. The error of x/oauth2 is looked
// into and never passed on: it holds the URL or the body.
func (x *exchange) result(failed error) (*answer, *Error) {
	switch {
	case failed == nil:
		return x.answer, nil
	case x.problem != nil:
		return nil, x.problem
	}
	return nil, &Error{Reason: hostOf(x.settings.url) + ": " + explain(failed)}
}

// Winsock's numbers, which package syscall does not map to the others.
const (
	wsaConnAborted = syscall.Errno(10053)
	wsaConnReset   = syscall.Errno(10054)
	wsaConnRefused = syscall.Errno(10061)
)

// explain says in our words why no answer came.
func explain(err error) string {
	var dns *net.DNSError
	var unknown x509.UnknownAuthorityError
	var hostname x509.HostnameError
	var invalid x509.CertificateInvalidError
	var verification *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	var alert tls.AlertError
	var proxy *net.OpError
	if errors.As(err, &proxy) && proxy.Op == "proxyconnect" {
		return "the forward proxy: " + explain(proxy.Err)
	}
	var ours TransportError
	switch {
	case errors.As(err, &ours):
		return ours.Error()
	case errors.Is(err, context.DeadlineExceeded):
		return "no complete answer in time"
	case errors.Is(err, context.Canceled):
		return "the token request was cancelled"
	case errors.As(err, &dns):
		return "the name does not resolve"
	case errors.As(err, &unknown):
		return "its certificate is signed by an authority that is not trusted here"
	case errors.As(err, &hostname):
		return "its certificate is for another name"
	case errors.As(err, &invalid), errors.As(err, &verification):
		return "its certificate is not valid"
	case errors.As(err, &record), errors.Is(err, http.ErrSchemeMismatch):
		return "it does not speak TLS"
	case errors.As(err, &alert):
		return "it ended the TLS handshake: " + alert.Error()
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, wsaConnRefused):
		return "connection refused"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE),
		errors.Is(err, wsaConnReset), errors.Is(err, wsaConnAborted),
		errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "the connection was closed before an answer came"
	}
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return "no connection in time"
	}
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op.Op + ": " + op.Err.Error()
	}
	return "the token request could not be sent, or the answer is not HTTP"
}
