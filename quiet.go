package injecttoken

import (
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/caddytoken/inject-token/tokensource"
)

// leastShown is how long a token is at least that is looked for in what an
// upstream says: shorter ones are found in ordinary words.
const leastShown = 8

// mostShown is how long a text of an upstream is at most that is looked through
// for every encoding of a token; in longer ones it is looked for as it is.
const mostShown = 8 << 10

// hidden is a token that upstreams must not show. It knows at a glance of most
// texts that they do not hold it.
type hidden struct {
	token   string
	changes bool // by escapes, as in a URL
	digits  int  // of it in base64; in hex there are more
}

func newHidden(token *tokensource.Token) hidden {
	secret := token.AccessToken
	return hidden{
		token:   secret,
		changes: strings.ContainsFunc(secret, func(r rune) bool { return r > 0x7f || !isDigit(byte(r)) && r != '.' && r != '~' }),
		digits:  len(secret) * 4 / 3,
	}
}

// in returns a text without the token.
func (h hidden) in(text string) string {
	switch {
	case len(h.token) < leastShown:
		return text
	case len(text) > mostShown:
		return strings.ReplaceAll(text, h.token, "[redacted]")
	case strings.Contains(text, h.token), h.changes && strings.ContainsAny(text, `%\&`), h.longRun(text):
		return tokensource.Scrub(text, h.token)
	}
	return text
}

// longRun says whether as many digits of an encoding stand in a text as the
// token would need.
func (h hidden) longRun(text string) bool {
	run := 0
	for i := 0; i < len(text) && run+len(text)-i >= h.digits; i++ {
		if isDigit(text[i]) || text[i] == '+' || text[i] == '/' {
			run++
		} else {
			run = 0
		}
		if run >= h.digits {
			return true
		}
	}
	return false
}

// isDigit is true for a digit of base64url.
func isDigit(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_'
}

// quiet takes the token out of the text of an error: net/http quotes what it
// cannot read, and a broken upstream may repeat the request there. The error
// stays what it is.
func (h hidden) quiet(err error) error {
	text := h.in(err.Error())
	if parse, ok := errors.AsType[*url.Error](err); ok && parse.Op == "parse" { // the address of a forward proxy
		text = "an address is not a URL; it is not shown, for it may hold a password"
	}
	if text == err.Error() {
		return err
	}
	return &quietError{text, err}
}

type quietError struct {
	text string
	err  error
}

func (e *quietError) Error() string { return e.text }
func (e *quietError) Unwrap() error { return e.err }

// inHeader takes the token out of every field: some gateways repeat it in a
// challenge, and answers stand in the access log.
func (h hidden) inHeader(header http.Header) {
	for _, values := range header {
		for i := range values {
			values[i] = h.in(values[i])
		}
	}
}

// quietProxy hides an error about the address of a forward proxy, which may
// hold a password. Caddy's own errors show it.
func quietProxy(err error) error {
	if err != nil && strings.Contains(err.Error(), "network_proxy") {
		return errors.New("network_proxy: this is wrong; it is not shown, for it may hold a password")
	}
	return err
}
