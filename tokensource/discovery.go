package tokensource

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"
)

// metadata is what a provider publishes of itself: RFC 8414, section 2, and
// OpenID Connect Discovery 1.0, section 3.
type metadata struct {
	Issuer                      string   `json:"issuer"`
	AuthorizationEndpoint       string   `json:"authorization_endpoint"`
	TokenEndpoint               string   `json:"token_endpoint"`
	DeviceAuthorizationEndpoint string   `json:"device_authorization_endpoint"`
	RevocationEndpoint          string   `json:"revocation_endpoint"`
	TokenEndpointAuthMethods    []string `json:"token_endpoint_auth_methods_supported"`
	CodeChallengeMethods        []string `json:"code_challenge_methods_supported"`
	IssParameterSupported       bool     `json:"authorization_response_iss_parameter_supported"` // RFC 9207

	// MutualTLS are the endpoints for clients that prove themselves with a
	// certificate, where they are others (RFC 8705, section 5).
	MutualTLS struct {
		TokenEndpoint               string `json:"token_endpoint"`
		DeviceAuthorizationEndpoint string `json:"device_authorization_endpoint"`
		RevocationEndpoint          string `json:"revocation_endpoint"`
	} `json:"mtls_endpoint_aliases"`

	fetched time.Time
}

// preferMutualTLS puts the aliases in the place of the endpoints.
func (m *metadata) preferMutualTLS() {
	m.TokenEndpoint = cmp.Or(m.MutualTLS.TokenEndpoint, m.TokenEndpoint)
	m.DeviceAuthorizationEndpoint = cmp.Or(m.MutualTLS.DeviceAuthorizationEndpoint, m.DeviceAuthorizationEndpoint)
	m.RevocationEndpoint = cmp.Or(m.MutualTLS.RevocationEndpoint, m.RevocationEndpoint)
}

// metadataLifetime is how long a person's authorization begins with metadata that
// were fetched before. A renewal goes on with them until it fails.
const metadataLifetime = time.Hour

// tokenEndpoint is what has to be known for a token request.
type tokenEndpoint struct {
	URL        string `json:"url"`
	ClientAuth string `json:"client_auth,omitempty"`
}

// Discover fetches the metadata of the issuer, and says what is wrong with them.
// It does nothing where there is no issuer. The error is an *Error.
func (s *Source) Discover(ctx context.Context) error {
	if s.config.Issuer == "" {
		return nil
	}
	if _, err := s.fetchMetadata(ctx); err != nil {
		return err
	}
	return nil
}

// discover returns the metadata of the issuer, which are cached for a while; nil
// where no issuer is configured.
func (s *Source) discover(ctx context.Context) (*metadata, *Error) {
	if s.config.Issuer == "" {
		return nil, nil
	}
	if m := s.metadata.Load(); m != nil && time.Since(m.fetched) < metadataLifetime {
		return m, nil
	}
	return s.fetchMetadata(ctx)
}

// discoverToken returns where token requests go, as far as the configuration does
// not say it. Once a token is there, it is fetched no more unless a token request
// fails.
func (s *Source) discoverToken(ctx context.Context, previous *Token) (*tokenEndpoint, *Error) {
	if s.config.Issuer == "" || s.config.TokenURL != "" && s.config.ClientAuth != "" {
		return nil, nil
	}
	if m := s.metadata.Load(); m != nil {
		return s.tokenEndpointOf(m), nil
	}
	if previous.found != nil && !s.doubtful.Load() {
		return previous.found, nil
	}
	m, err := s.fetchMetadata(ctx)
	switch {
	case err == nil:
		return s.tokenEndpointOf(m), nil
	case previous.found != nil:
		return previous.found, nil
	case s.config.TokenURL != "":
		return nil, nil // it is known where, and a default how
	}
	return nil, err
}

func (s *Source) tokenEndpointOf(m *metadata) *tokenEndpoint {
	return &tokenEndpoint{URL: m.TokenEndpoint, ClientAuth: s.supportedClientAuth(m.TokenEndpointAuthMethods)}
}

// supportedClientAuth returns the first of our own choice that the provider knows,
// or "". RFC 8414 says that it knows client_secret_basic where it does not say.
func (s *Source) supportedClientAuth(methods []string) string {
	if s.config.ClientSecret == "" {
		return ""
	}
	for _, method := range []string{"client_secret_basic", "client_secret_post", "client_secret_jwt"} {
		if slices.Contains(methods, method) {
			return method
		}
	}
	return ""
}

// doubt has the metadata fetched again, where a request to an endpoint that they
// named failed in a way that may be the endpoint's.
func (s *Source) doubt(e *Error) {
	if s.config.Issuer != "" && e.Code == "" && e.StatusCode != http.StatusTooManyRequests {
		s.metadata.Store(nil)
		s.doubtful.Store(true)
	}
}

// missed has the metadata fetched again where they lack an endpoint.
func (s *Source) missed(found *tokenEndpoint) {
	if found != nil && found.URL == "" {
		s.metadata.Store(nil)
	}
}

func (s *Source) fetchMetadata(ctx context.Context) (*metadata, *Error) {
	ctx, cancel := context.WithTimeout(ctx, s.config.Timeout)
	defer cancel()
	e := &expansion{resolver: &resolver{lookup: s.config.Lookup}}
	issuer := e.address("issuer", s.config.Issuer)
	if e.err != nil {
		return nil, &Error{Reason: e.err.Error(), Permanent: true, Changed: func() bool {
			again := &expansion{resolver: &resolver{lookup: s.config.Lookup}}
			again.text("issuer", s.config.Issuer)
			return again.err == nil
		}}
	}
	if err := CheckIssuer(issuer, s.config.InsecureHTTP); err != nil {
		return nil, &Error{Reason: "issuer: " + err.Error()}
	}
	var m *metadata
	var err *Error
	for _, address := range wellKnown(issuer) {
		if m, err = s.fetch(ctx, address); err == nil || err.StatusCode != http.StatusNotFound {
			break
		}
	}
	if err == nil {
		if s.config.ClientCertificate {
			m.preferMutualTLS()
		}
		err = s.checkMetadata(m, issuer)
	}
	if err != nil {
		err.Reason, err.Discovery = "the issuer's metadata: "+err.Reason, true
		newScrubber(e.resolved...).error(err)
		return nil, err
	}
	m.fetched = time.Now()
	s.metadata.Store(m)
	s.doubtful.Store(false)
	return m, nil
}

// wellKnown returns where the metadata of an issuer are: OpenID Connect appends,
// RFC 8414, section 3.1 puts it between host and path.
func wellKnown(issuer string) []string {
	u, err := url.Parse(issuer)
	if err != nil {
		return nil
	}
	path := strings.TrimSuffix(u.EscapedPath(), "/")
	base := u.Scheme + "://" + u.Host
	return []string{
		base + path + "/.well-known/openid-configuration",
		base + "/.well-known/oauth-authorization-server" + path,
	}
}

func (s *Source) fetch(ctx context.Context, address string) (*metadata, *Error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, &Error{Reason: "the address cannot be made from the issuer"}
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", s.config.UserAgent)
	req.Close = true
	resp, err := s.config.Transport.RoundTrip(req)
	if err != nil {
		return nil, &Error{Reason: hostOf(address) + ": " + explain(err)}
	}
	defer resp.Body.Close()
	problem := &Error{StatusCode: resp.StatusCode}
	if resp.StatusCode != http.StatusOK {
		problem.Reason = hostOf(address) + " has none here"
		if resp.StatusCode/100 == 3 {
			problem.Reason = redirect(resp.Header.Get("Location"), "the issuer it names itself as issuer")
		}
		problem.RetryAfter = retryAfter(resp.Header.Get("Retry-After"), time.Now())
		return nil, problem
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	m := new(metadata)
	switch {
	case len(body) > maxAnswer:
		problem.Reason = "they are larger than 1 MiB"
	case err != nil:
		problem.Reason = hostOf(address) + ": " + explain(err)
	case json.Unmarshal(bytes.TrimPrefix(body, []byte("\xef\xbb\xbf")), m) != nil:
		problem.Reason = "they are not JSON as RFC 8414 has it"
	default:
		return m, nil
	}
	return nil, problem
}

// checkMetadata refuses what somebody else may have written (RFC 8414, section 6.2),
// and endpoints to which nothing may be sent.
func (s *Source) checkMetadata(m *metadata, issuer string) *Error {
	if m.Issuer != issuer {
		return &Error{Reason: fmt.Sprintf("they are of the issuer %q, and not of the configured one; both must be the same to the last slash", cut(m.Issuer, maxDescription))}
	}
	for _, endpoint := range []struct{ name, url string }{
		{"authorization_endpoint", m.AuthorizationEndpoint}, {"token_endpoint", m.TokenEndpoint},
		{"device_authorization_endpoint", m.DeviceAuthorizationEndpoint}, {"revocation_endpoint", m.RevocationEndpoint},
	} {
		if endpoint.url == "" {
			continue
		}
		if err := s.checkDiscovered(endpoint.url, issuer); err != nil {
			return &Error{Reason: endpoint.name + ": " + err.Error()}
		}
	}
	return nil
}

func (s *Source) checkDiscovered(endpoint, issuer string) error {
	if err := CheckURL(endpoint, s.config.InsecureHTTP); err != nil {
		return err
	}
	to, _ := url.Parse(endpoint)
	from, _ := url.Parse(issuer)
	switch {
	case from.Scheme == "https" && to.Scheme != "https":
		return fmt.Errorf("it is plain http, and the issuer is not")
	case isInside(to.Hostname()) && !isInside(from.Hostname()):
		return fmt.Errorf("it is an address of this machine, and the issuer is not; write the URL into the configuration if this must be")
	}
	return nil
}

// isInside says whether a host is this machine or its link, where what listens
// trusts whoever comes.
func isInside(host string) bool {
	if IsLoopback(host) {
		return true
	}
	host = strings.TrimSuffix(host, ".")
	addr, err := netip.ParseAddr(host)
	if err != nil {
		// 127.1 and 0x7f000001 are addresses to some resolvers, and names to none.
		last := host[strings.LastIndexByte(host, '.')+1:]
		return last != "" && last[0] >= '0' && last[0] <= '9'
	}
	return addr.Unmap().IsUnspecified() || addr.Unmap().IsLinkLocalUnicast()
}
