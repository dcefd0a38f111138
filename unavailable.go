package injecttoken

import (
	"errors"
	"io"
	"math"
	"net/http"
	"strconv"
	"strings"

	"github.com/caddytoken/inject-token/refresher"
)

// An answer of our own. It is an answer and not an error of the transport,
// which would count as the upstream's failure and be tried on the next one.
func answer(req *http.Request, status int, sentence string) *http.Response {
	if req.Body != nil {
		req.Body.Close()
	}
	body := sentence + "\n"
	return &http.Response{
		Status:     strconv.Itoa(status) + " " + http.StatusText(status),
		StatusCode: status,
		Proto:      "HTTP/1.1",
		ProtoMajor: 1,
		ProtoMinor: 1,
		Header: http.Header{
			"Cache-Control": {"no-store"},
			"Content-Type":  {"text/plain; charset=utf-8"},
		},
		ContentLength: int64(len(body)),
		Body:          io.NopCloser(strings.NewReader(body)),
		Request:       req,
	}
}

// unavailable answers a request for which there is no token: 503 where trying
// again can help, 502 where the provider rejected us, 504 where the wait ran
// out. Proxy-Status (RFC 9209) says which error the provider named, or which
// time it was.
func unavailable(req *http.Request, source string, err error) *http.Response {
	if other, ok := errors.AsType[*ofOther](err); ok {
		source = other.name
	}
	if _, ok := errors.AsType[*unformed](err); ok { // the log says what
		resp := answer(req, http.StatusBadGateway, "The request for this API cannot be made: something that goes with the token of the token source "+source+" is missing, and an operator must see to that.")
		resp.Header.Set("Proxy-Status", "inject_token; error=proxy_internal_response")
		return resp
	}
	u, ok := errors.AsType[*refresher.Unavailable](err)
	if !ok {
		u = new(refresher.Unavailable)
	}
	var resp *http.Response
	status := "inject_token; error=proxy_internal_response"
	switch {
	case u.Waited && errors.Is(u.Ended, errTryDuration):
		resp = answer(req, http.StatusServiceUnavailable, "There is no token for this API: the token source "+source+" did not get one within lb_try_duration.")
		status += `; details="lb_try_duration"`
	case u.Waited:
		resp = answer(req, http.StatusGatewayTimeout, "There is no token for this API: the token source "+source+" did not get one in time.")
		if errors.Is(u.Ended, errWait) {
			status += `; details="wait"`
		} else {
			status += `; details="deadline of the request"`
		}
	case u.Permanent && u.Cause.AuthorizationRequired:
		resp = answer(req, http.StatusBadGateway, "There is no token for this API: a person must authorize the token source "+source+". An operator begins that with: "+authorizeCommand(source))
	case u.Permanent && u.Cause.StatusCode == 0: // nobody was asked
		resp = answer(req, http.StatusBadGateway, "There is no token for this API: the configuration of the token source "+source+" does not work, and an operator must see to that.")
	case u.Permanent:
		resp = answer(req, http.StatusBadGateway, "There is no token for this API: the provider of the token source "+source+" rejects it, and an operator must see to that.")
	default:
		resp = answer(req, http.StatusServiceUnavailable, "There is no token for this API: the provider of the token source "+source+" does not issue one at present.")
		if u.RetryAfter > 0 {
			seconds := max(1, int64(math.Ceil(u.RetryAfter.Seconds())))
			resp.Header.Set("Retry-After", strconv.FormatInt(seconds, 10))
		}
	}
	if u.Cause != nil && u.Cause.Code != "" {
		status += `; details="` + quotable(u.Cause.Code) + `"`
	}
	resp.Header.Set("Proxy-Status", status)
	if resp.StatusCode == http.StatusServiceUnavailable && resp.Header.Get("Retry-After") == "" {
		resp.Header.Set("Retry-After", "1")
	}
	return resp
}

// quotable makes a text fit for a string of RFC 9651.
func quotable(text string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r > 0x7e || r == '"' || r == '\\' {
			return '_'
		}
		return r
	}, text)
}
