package injecttoken

import (
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"strings"

	"github.com/caddytoken/inject-token/tokensource"
)

// withoutParams drops the parameters of these names from a raw query and
// leaves every other byte as it was. Letter case is not looked at, and a
// semicolon separates as well, since there are servers that think so.
func withoutParams(query string, names []string) string {
	if query == "" {
		return query
	}
	var out strings.Builder
	var written bool
	for rest, separator := query, ""; ; {
		end := strings.IndexAny(rest, "&;")
		pair, next := rest, ""
		if end >= 0 {
			pair, next = rest[:end], rest[end:end+1]
		}
		if !isParam(pair, names) {
			if written {
				out.WriteString(separator)
			}
			out.WriteString(pair)
			written = true
		}
		if end < 0 {
			return out.String()
		}
		rest, separator = rest[end+1:], next
	}
}

func isParam(pair string, names []string) bool {
	name, _, _ := strings.Cut(pair, "=")
	if decoded, err := url.QueryUnescape(name); err == nil {
		name = decoded
	}
	name, _, _ = strings.Cut(name, "[") // an element of an array of that name, to some
	for _, n := range names {
		if strings.EqualFold(name, n) {
			return true
		}
	}
	return false
}

// reflecting are the fields of an answer in which servers repeat the URL that
// they were asked for, and the bytes at which a query ends there.
var reflecting = map[string]string{
	"Location":         "#",
	"Content-Location": "#",
	"Link":             "#>",
	"Refresh":          "#\"'",
}

// scrubAnswer takes the token out of what an answer repeats of the request,
// so that neither the caller nor a log comes to see it.
func (in *injection) scrubAnswer(resp *http.Response, method string, token *tokensource.Token) {
	in.scrub(resp.Header, token)
	in.dropRedirectBody(resp, method)
	if resp.StatusCode != http.StatusSwitchingProtocols && resp.Body != nil && resp.Body != http.NoBody {
		resp.Body = &answerBody{resp.Body, resp, token}
	}
}

// scrub takes the token out of a header. The URLs in it are clean, so that a
// redirect to the same address with a slash does not show the token, in
// whatever encoding.
func (in *injection) scrub(header http.Header, token *tokensource.Token) {
	if len(in.params) > 0 {
		for field, ends := range reflecting {
			for i, value := range header[field] {
				header[field][i] = tokensource.Scrub(withoutReflected(value, ends, in.params), token.AccessToken)
			}
		}
	}
	hide(header, in.formedOf(token).forms)
}

// dropRedirectBody leaves out what servers write beside a Location: a page
// with the same URL, and with the token in it. Nobody needs it, and it may be
// compressed.
func (in *injection) dropRedirectBody(resp *http.Response, method string) {
	if len(in.params) == 0 || resp.StatusCode/100 != 3 || resp.Header.Get("Location") == "" {
		return
	}
	resp.Body.Close()
	resp.Body, resp.ContentLength, resp.TransferEncoding, resp.Trailer = http.NoBody, 0, nil, nil
	for _, field := range []string{
		"Content-Length", "Content-Type", "Content-Encoding", "Content-Range", "Etag", "Digest", "Content-Digest", "Repr-Digest", "Trailer",
	} {
		resp.Header.Del(field)
	}
	if method != http.MethodHead {
		resp.Header.Set("Content-Length", "0")
	}
}

// scrubHints has the answers before the answer scrubbed as well (103 Early
// Hints): reverse_proxy hands them to the caller by a hook of its own, which
// runs after this one.
func (in *injection) scrubHints(req *http.Request, token *tokensource.Token) *http.Request {
	if len(in.params) == 0 {
		return req
	}
	return req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(_ int, header textproto.MIMEHeader) error {
			in.scrub(http.Header(header), token)
			return nil
		},
	}))
}

// withoutReflected drops the parameters from every query in a text that holds
// one or more URLs.
func withoutReflected(text, ends string, names []string) string {
	var out strings.Builder
	for {
		start := strings.IndexByte(text, '?')
		if start < 0 {
			out.WriteString(text)
			return out.String()
		}
		end := start + 1 + strings.IndexAny(text[start+1:], ends)
		if end == start {
			end = len(text)
		}
		out.WriteString(text[:start])
		query := text[start+1 : end]
		if cleaned := withoutParams(query, names); cleaned != "" || query == "" {
			out.WriteString("?" + cleaned)
		}
		text = text[end:]
	}
}
