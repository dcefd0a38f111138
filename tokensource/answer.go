package tokensource

import (
	"cmp"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"
)

const (
	// maxAnswer is far more than any token needs (the largest known, with
	// hundreds of groups in it, are of 64 KiB).
	maxAnswer = 1 << 20

	// maxLifetime is where a lifetime is rather a mistake in its unit.
	maxLifetime = 10 * 365 * 24 * time.Hour

	// minLifetime is the least lifetime that is one: less is a mistake in its
	// unit, and a provider would be asked all the time.
	minLifetime = time.Second

	// maxRetryAfter keeps a provider's slip from silencing a source for good.
	maxRetryAfter = 24 * time.Hour

	// maxCode is where an error code is rather a sentence.
	maxCode = 100
)

// Response says where a token endpoint's answer is not RFC 6749's. The zero
// value reads any answer described there, and the usual deviations.
//
// A path is dotted, "data.token" or "items.0.token", and written exactly as
// the answer has it; a name that holds dots itself is found too. Without a
// path the standard name is looked for, at the top level, in any case and in
// camelCase.
type Response struct {
	// AccessToken is the path of the access token. "." says that the answer
	// is nothing but the token, as bare text or as a JSON string.
	AccessToken string

	// RefreshToken is the path of the refresh token.
	RefreshToken string

	// ExpiresIn is the path of the lifetime, counted in ExpiresInUnit.
	// The default of that is time.Second.
	ExpiresIn     string
	ExpiresInUnit time.Duration

	// ExpiresAt is the path of the time at which the token ends. Its format is
	// "unix", "unix_ms" or "rfc3339"; where empty, whatever it looks like.
	ExpiresAt       string
	ExpiresAtFormat string

	// Error is a path: a 2xx answer with this field is an error, unless its
	// value is null, empty or one of ErrorOK.
	Error   string
	ErrorOK []string

	// Expose are the paths of values that are kept beside the token, by the names
	// under which Token.Exposed has them. They are no secrets.
	Expose map[string]string
}

// answer is what one answer of a token endpoint says, after all lenience.
type answer struct {
	// accessToken is never empty and holds no control bytes.
	accessToken string

	// refreshToken is empty where there is none.
	refreshToken string

	// lifetime is 0 where the answer does not say, or nothing believable.
	lifetime time.Duration

	// scopes are nil where the answer does not say.
	scopes []string

	// exposed are the values of Response.Expose that the answer has.
	exposed map[string]string

	// tokenType is empty where the answer does not say.
	tokenType string
}

// read returns what resp says: a token or an error, never both. It does not
// close the body, and does not look at the Content-Type: too many providers
// send JSON as text/html and forms as text/plain.
//
// The texts of the error are the provider's own, of any length and with
// whatever they echo; they must pass through [scrubber.error].
func (f *Response) read(resp *http.Response, now time.Time) (*answer, *Error) {
	// An absolute time was made from the provider's clock. Measured by the
	// same clock, the skew between the two machines cancels out.
	clock := now
	if date, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		clock = date
	}

	got, failure := f.interpret(resp, clock)
	if failure != nil {
		failure.StatusCode = resp.StatusCode
		failure.RetryAfter = retryAfter(resp.Header.Get("Retry-After"), clock)
		return nil, failure
	}
	return got, nil
}

func (f *Response) interpret(resp *http.Response, clock time.Time) (*answer, *Error) {
	// Only a success is a bare token; an error is an error in the usual forms.
	doc, failure := open(resp, f.AccessToken == "." && isSuccess(resp.StatusCode))
	if failure != nil {
		return nil, failure
	}
	token, reason := f.accessToken(doc)
	refresh := refreshTokenOf(doc.value(f.RefreshToken, "refresh_token"))
	if failure := f.refusal(doc, resp.StatusCode); failure != nil {
		failure.issued = []string{token, refresh}
		return nil, failure
	}
	if reason != "" {
		return nil, &Error{Reason: reason, answered: true}
	}
	return &answer{
		accessToken:  token,
		refreshToken: refresh,
		lifetime:     f.lifetime(doc, token, clock),
		scopes:       scopesOf(doc.top.get("scope")),
		exposed:      f.exposed(doc),
		tokenType:    doc.top.text("token_type"),
	}, nil
}

// open reads the document of any answer.
func open(resp *http.Response, bare bool) (*document, *Error) {
	if resp.StatusCode/100 == 3 {
		return nil, &Error{Reason: redirect(resp.Header.Get("Location"), "the final URL as token_url"), answered: true}
	}
	if resp.StatusCode/100 == 1 { // what follows a 101 is no answer, and knows no deadline
		return nil, &Error{Reason: "this is no answer"}
	}
	body, reason := readBody(resp.Body)
	if reason != "" {
		return nil, &Error{Reason: reason}
	}
	doc, reason := parse(body, bare)
	if reason != "" {
		return nil, &Error{Reason: reason}
	}
	return doc, nil
}

// document returns the document of an answer that is to hold no token, and is a
// success.
func (f *Response) document(resp *http.Response) (*document, *Error) {
	doc, failure := open(resp, false)
	if failure == nil {
		if failure = f.refusal(doc, resp.StatusCode); failure == nil {
			return doc, nil
		}
	}
	failure.StatusCode = resp.StatusCode
	failure.RetryAfter = retryAfter(resp.Header.Get("Retry-After"), time.Now())
	return nil, failure
}

// mostScopes and maxScope bound what is remembered of a provider's word.
const (
	mostScopes = 100
	maxScope   = 200
)

// scopesOf reads what was granted: a text, separated by blanks (RFC 6749, section
// 3.3) or commas, or a list.
func scopesOf(value any) []string {
	var found []string
	switch value := value.(type) {
	case string:
		found = strings.FieldsFunc(value, func(r rune) bool { return r <= ' ' || r == ',' })
		if strings.ContainsAny(value, "()") { // read(all),write(a,b)
			found = strings.Fields(value)
		}
	case []any:
		for _, one := range value {
			found = append(found, text(one))
		}
	}
	found = slices.DeleteFunc(found, func(scope string) bool {
		return scope == "" || len(scope) > maxScope || strings.ContainsFunc(scope, isUnshowable)
	})
	return found[:min(len(found), mostScopes)]
}

// isUnshowable says whether a rune does something to a terminal.
func isUnshowable(r rune) bool { return unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp) }

func isSuccess(status int) bool { return status/100 == 2 }

func readBody(r io.Reader) (body []byte, reason string) {
	body, err := io.ReadAll(io.LimitReader(r, maxAnswer+1))
	switch {
	case len(body) > maxAnswer:
		return nil, "the answer is larger than 1 MiB"
	case err != nil:
		return nil, "the answer did not come to its end"
	}
	return body, ""
}

// redirect names the host alone: the rest of a Location may hold a secret,
// where the provider appends the query it was called with.
func redirect(location, instead string) string {
	advice := ", which is not followed; write " + instead
	target, err := url.Parse(location)
	switch {
	case err != nil || location == "" || target.Host == "" && target.Scheme != "":
		return "a redirect without a usable Location"
	case target.Host == "":
		return "a redirect to another place on the same host" + advice
	}
	return "a redirect to " + target.Host + advice
}

// retryAfter reads a Retry-After field (RFC 9110, section 10.2.3).
func retryAfter(field string, clock time.Time) time.Duration {
	if n, ok := number(field); ok {
		return time.Duration(min(max(n, 0), maxRetryAfter.Seconds()) * float64(time.Second))
	}
	if at, err := http.ParseTime(field); err == nil {
		return min(max(at.Sub(clock), 0), maxRetryAfter)
	}
	return 0
}

// accessToken returns the token, or why there is none.
func (f *Response) accessToken(doc *document) (token, reason string) {
	name := cmp.Or(f.AccessToken, "access_token")
	if name == "." {
		name = "token"
	}
	switch value := doc.value(f.AccessToken, "access_token").(type) {
	case nil:
		return "", "the answer holds no " + name
	case string, json.Number:
		token = text(value)
	default:
		return "", "the answer's " + name + " is not a string"
	}
	switch {
	case strings.TrimSpace(token) == "":
		return "", "the answer's " + name + " is empty"
	case strings.ContainsFunc(token, isControl):
		return "", "the answer's " + name + " holds control characters"
	}
	return token, ""
}

func isControl(r rune) bool { return r < 0x20 || r == 0x7f }

// refreshTokenOf returns "" for what is no refresh token, such as false, 0 or a
// blank: the one that we have must not give way to it.
func refreshTokenOf(value any) string {
	token := text(value)
	switch value := value.(type) {
	case bool:
		return ""
	case json.Number:
		if n, ok := number(value.String()); ok && n == 0 {
			return ""
		}
	}
	if strings.TrimSpace(token) == "" || strings.ContainsFunc(token, isControl) {
		return ""
	}
	return token
}
