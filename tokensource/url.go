package tokensource

import (
	"errors"
	"net"
	"net/netip"
	"net/url"
	"strings"
)

// queryEscape is good in a path as well as in a query.
func queryEscape(s string) string {
	return strings.ReplaceAll(url.QueryEscape(s), "+", "%20")
}

// CheckURL says what is wrong with the URL of an endpoint of a provider. The
// URL itself is not part of the error: it may hold a secret.
func CheckURL(text string, insecure bool) error {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return errors.New("this is not a URL")
	case strings.ContainsFunc(text, cannotStandInURL):
		return errors.New("the URL holds a blank or another character that must be escaped; a value from a placeholder is better sent as param")
	case u.Scheme != "https" && u.Scheme != "http":
		return errors.New("a whole URL is needed, such as https://auth.example.org/token")
	case u.Hostname() == "":
		return errors.New("the URL has no host")
	case u.User != nil:
		return errors.New("the URL holds a user name; use client_id, client_secret and client_auth")
	case u.Fragment != "":
		return errors.New("the URL has a fragment (#…), which cannot be sent")
	case u.Scheme == "http" && !insecure && !IsLoopback(u.Hostname()):
		return errors.New("plain http would show the credentials to the network; use https, or write insecure_http if this must be")
	}
	return nil
}

// CheckIssuer says what is wrong with an issuer's identifier (RFC 8414, section 2).
func CheckIssuer(text string, insecure bool) error {
	if err := CheckURL(text, insecure); err != nil {
		return err
	}
	if strings.Contains(text, "?") {
		return errors.New("an issuer has no query (?…)")
	}
	if strings.Contains(text, "/.well-known/") {
		return errors.New("an issuer is written without /.well-known/…, which is appended by itself")
	}
	return nil
}

func cannotStandInURL(r rune) bool {
	return r <= ' ' || r == 0x7f || strings.ContainsRune("\"<>\\^`{|}", r)
}

// IsLoopback says whether a host is this machine by its name or address.
func IsLoopback(host string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		return addr.Unmap().IsLoopback()
	}
	return false
}

// hostOf returns where a URL points, for errors: never its path or query.
func hostOf(text string) string {
	u, err := url.Parse(text)
	if err != nil {
		return ""
	}
	if port := u.Port(); port != "" {
		return net.JoinHostPort(u.Hostname(), port)
	}
	return u.Hostname()
}
