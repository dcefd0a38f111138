package injecttoken

import (
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/caddytoken/inject-token/tokensource"
)

// leastShown is how long a token is at least that is looked for in what an
// upstream says: shorter ones are found in ordinary words.
const leastShown = 8

const redacted = "[redacted]"

// formsOf returns how a token may stand in what an upstream repeats of a
// request.
func formsOf(token *tokensource.Token) []string {
	if len(token.AccessToken) < leastShown {
		return nil
	}
	forms := []string{token.AccessToken}
	quoted := strconv.Quote(token.AccessToken)
	for _, form := range []string{url.QueryEscape(token.AccessToken), quoted[1 : len(quoted)-1]} {
		if form != token.AccessToken {
			forms = append(forms, form)
		}
	}
	return forms
}

func withoutForms(text string, forms []string) string {
	for _, form := range forms {
		if strings.Contains(text, form) {
			text = strings.ReplaceAll(text, form, redacted)
		}
	}
	return text
}

// quiet takes the token out of the text of an error: net/http quotes what it
// cannot read, and a broken upstream may repeat the request there. The error
// stays what it is.
func quiet(err error, token *tokensource.Token) error {
	text := withoutForms(err.Error(), formsOf(token))
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

// answerBody is the body of an upstream's answer, whose errors and trailers do
// not hold the token.
type answerBody struct {
	io.ReadCloser
	resp  *http.Response
	token *tokensource.Token
}

func (b *answerBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == nil {
		return n, nil
	}
	hide(b.resp.Trailer, formsOf(b.token))
	if err != io.EOF {
		err = quiet(err, b.token)
	}
	return n, err
}

// hide takes the token out of every field: some gateways repeat it in a
// challenge, and answers stand in the access log.
func hide(header http.Header, forms []string) {
	for _, values := range header {
		for i := range values {
			values[i] = withoutForms(values[i], forms)
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
