package tokensource

import (
	"cmp"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
)

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
