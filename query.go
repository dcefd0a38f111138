package injecttoken

import (
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
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
	array, _, _ := strings.Cut(name, "[") // of which this is an element, to some
	for _, n := range names {
		if strings.EqualFold(name, n) || strings.EqualFold(array, n) {
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

// scrub takes the token out of a header. The URLs in it are clean, so that a
// redirect to the same address with a slash does not show the token.
func (in *injection) scrub(header http.Header, h hidden) {
	if len(in.params) > 0 {
		for field, ends := range reflecting {
			for i, value := range header[field] {
				header[field][i] = h.scrubbed(withoutReflected(value, ends, in.params))
			}
		}
	}
	h.inHeader(header)
}

func isRedirect(resp *http.Response) bool {
	return resp.StatusCode/100 == 3 && resp.StatusCode != http.StatusNotModified && len(resp.Header["Location"]) > 0
}

// shortBody is what is read of a body that nobody wants, and shortly for how
// long, to keep the connection.
const (
	shortBody = 4 << 10
	shortly   = time.Second
)

// discard reads a body to its end and closes it, if that can be had soon.
func discard(body io.ReadCloser) {
	timer := time.AfterFunc(shortly, func() { body.Close() })
	defer timer.Stop()
	_, _ = io.CopyN(io.Discard, body, shortBody)
	body.Close()
}

// dropBody leaves out what servers write beside a Location: a page with the
// same URL, and with the token in it. Nobody needs it, and it may be
// compressed.
func dropBody(resp *http.Response, method string) {
	if resp.ContentLength >= 0 && resp.ContentLength < shortBody {
		go discard(resp.Body) // ends shortly
	} else {
		resp.Body.Close()
	}
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
		// A reference that is nothing but a query stays one: an empty one is none.
		if cleaned := withoutParams(query, names); cleaned != "" || query == "" || start == 0 {
			out.WriteString("?" + cleaned)
		}
		text = text[end:]
	}
}
