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

// refusal returns the error that the answer reports, nil where it is a
// success. Where a configured field and the standard one both report one, the
// configured one is what the user wants to read, unless the other says that
// trying again is useless: that must not be missed.
func (f *Response) refusal(doc *document, status int) *Error {
	var own *Error
	if isSuccess(status) && f.Error != "" {
		own = f.ownRefusal(doc, status)
	}
	standard := f.standardRefusal(doc, status)
	if own == nil || standard != nil && standard.Permanent && f.Error != "error" {
		return standard
	}
	return own
}

func (f *Response) ownRefusal(doc *document, status int) *Error {
	value := first(doc.value(f.Error, ""))
	if isEmpty(value) || f.isOK(value) {
		return nil
	}
	failure := doc.explain(value, isOwnCode, status)
	if said, ok := value.(bool); ok && failure.Code == "" && failure.Description == "" {
		failure.Code, failure.Reason = text(said), ""
	}
	return failure
}

func (f *Response) standardRefusal(doc *document, status int) *Error {
	value := first(doc.top.get("error"))
	switch {
	case reportsError(value) && !(isSuccess(status) && f.isOK(value)):
		return doc.explain(value, isCode, status)
	case !isSuccess(status):
		return doc.explain(nil, isCode, status)
	}
	return nil
}

// isEmpty is true for what stands in a field that has nothing to say, and for
// a field that is not there.
func isEmpty(value any) bool {
	switch value := value.(type) {
	case nil:
		return true
	case string:
		return value == ""
	case []any:
		return len(value) == 0
	case map[string]any:
		return len(value) == 0
	}
	return false
}

// isOK does not take an object or a list for the empty value.
func (f *Response) isOK(value any) bool {
	switch value.(type) {
	case string, json.Number, bool:
		return slices.Contains(f.ErrorOK, text(value))
	}
	return false
}

// reportsError tells an error from the ways to say that there is none.
func reportsError(value any) bool {
	switch value := value.(type) {
	case bool:
		return value
	case json.Number:
		n, ok := number(value.String())
		return !ok || n != 0
	case string:
		value = strings.ToLower(strings.TrimSpace(value))
		return value != "" && value != "0" && value != "false"
	}
	return !isEmpty(value)
}

// permanent are the codes of RFC 6749, section 5.2. What else a provider calls
// an error may pass: nobody has promised that it does not.
var permanent = []string{
	"invalid_request", "invalid_client", "invalid_grant",
	"unauthorized_client", "unsupported_grant_type", "invalid_scope",
}

// explain reads the value of an error field: a code (RFC 6749), true or a
// number, with the rest beside it, or an object that holds all (Google,
// Facebook). Of what is not a code, a sentence is made the description.
func (d *document) explain(value any, isCode func(string) bool, status int) *Error {
	beside := d.top
	code := text(value)
	switch value := value.(type) {
	case map[string]any:
		beside = newFields(value)
		code = beside.code()
	case bool:
		code = beside.code()
	}
	failure := &Error{
		Description: cmp.Or(beside.description(), d.top.description()),
		URI:         cmp.Or(beside.text("error_uri"), d.top.text("error_uri")),
	}
	switch code = strings.TrimSpace(code); {
	case isCode(code):
		failure.Code = code
	case code != "":
		failure.Description = cmp.Or(failure.Description, code)
	}
	if failure.Code == "" {
		failure.Reason = "the answer holds no error code"
	}
	if lower := strings.ToLower(failure.Code); slices.Contains(permanent, lower) {
		failure.Code = lower
		failure.Permanent = !isTransient(status)
	}
	return failure
}

// isTransient is true where the status says that the request did not fail for
// what it said, whatever the code: gateways put invalid_request into a 503.
func isTransient(status int) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return true
	}
	return status >= 500
}

// isCode accepts somewhat more than RFC 6749's grammar of an error code.
func isCode(s string) bool {
	return s != "" && len(s) <= maxCode &&
		!strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r > 0x7e })
}

// isOwnCode is stricter, for the user may point at a field that holds either a
// code or a sentence.
func isOwnCode(s string) bool {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-"
	return isCode(s) && strings.Trim(s, letters) == ""
}
