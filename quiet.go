package injecttoken

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/caddytoken/inject-token/tokensource"
)

// leastShown is how long a token is at least that is looked for in what an
// upstream says: shorter ones are found in ordinary words.
const leastShown = 8

// mostShown is how long a text of an upstream is at most that is looked through
// for every encoding of a token; in longer ones it is looked for as it is.
const mostShown = 8 << 10

// hidden is what upstreams must not show: the token, and other secrets that went
// with it. It sees at a glance that most texts hold none.
type hidden struct {
	secrets []string
	needles []string // one of which stands in every text that holds a secret
}

func newHidden(secrets ...string) (h hidden) {
	for _, secret := range secrets {
		if len(secret) < leastShown {
			continue
		}
		// What escapes leave as it is, and what is the same of every text that holds
		// the secret, in base64 and in hex.
		h.secrets = append(h.secrets, secret)
		h.needles = append(h.needles, longestWord(secret), fmt.Sprintf("%x", secret), fmt.Sprintf("%X", secret))
		for skipped := range 3 {
			digits := len(secret[skipped:]) * 8 / 24 * 4
			h.needles = append(h.needles,
				base64.StdEncoding.EncodeToString([]byte(secret[skipped:]))[:digits],
				base64.URLEncoding.EncodeToString([]byte(secret[skipped:]))[:digits])
		}
	}
	slices.Sort(h.needles)
	h.needles = slices.Compact(h.needles)
	return h
}

// longestWord returns the longest part of a text that no encoding of an escape
// changes.
func longestWord(text string) (longest string) {
	for word := range strings.FieldsFuncSeq(text, func(r rune) bool { return r > 0x7f || !isDigit(byte(r)) || r == '-' || r == '_' }) {
		if len(word) > len(longest) {
			longest = word
		}
	}
	return longest
}

// isDigit is true for a digit of base64url.
func isDigit(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_'
}

// in returns a text without the token.
func (h hidden) in(text string) string {
	for _, needle := range h.needles {
		if len(needle) > len(text) || !strings.Contains(text, needle) {
			continue
		}
		return h.scrubbed(text)
	}
	return text
}

// scrubbed is in without the glance.
func (h hidden) scrubbed(text string) string {
	for _, secret := range h.secrets {
		text = withoutSecret(text, secret)
	}
	return text
}

func withoutSecret(text, secret string) string {
	if len(text) <= mostShown {
		return tokensource.Scrub(text, secret)
	}
	quoted := strconv.Quote(secret)
	for _, form := range []string{secret, url.QueryEscape(secret), url.PathEscape(secret), quoted[1 : len(quoted)-1]} {
		text = strings.ReplaceAll(text, form, "[redacted]")
	}
	return text
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
