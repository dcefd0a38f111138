package tokensource

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// signingKey is a private key, and what a JWT's header says of it.
type signingKey struct {
	private crypto.Signer
	algs    []string // that fit it, the default first
	id      string   // its own name; "": it has none
	chain   []*x509.Certificate

	// account is the e-mail address of the service account whose key it is.
	account string
}

// keyError says what is wrong with a private key, and nothing of what it is.
func keyError(format string, args ...any) error {
	return fmt.Errorf("private_key: "+format, args...)
}

// tooEarly is an error that passes by itself.
type tooEarly struct {
	error
	until time.Time
}

// CheckPrivateKey says what is wrong with a private key: a PEM text (PKCS #8, PKCS #1,
// SEC 1), behind which its certificates may stand, a JWK, or a service account's
// JSON file as Google has it. The algorithm may be empty.
func CheckPrivateKey(text, alg string) error {
	key, err := parseKey(text)
	if err != nil {
		return err
	}
	_, err = key.algorithm(alg)
	return err
}

// parseKey reads a private key in any of the forms of CheckPrivateKey.
func parseKey(text string) (*signingKey, error) {
	text = trimKey(text)
	switch {
	case strings.HasPrefix(text, "{file"), strings.HasPrefix(text, "{env"):
		return nil, keyError("a placeholder is written with a dot: {file.PATH} or {env.NAME}")
	case strings.HasPrefix(text, "{"):
		return parseJSONKey([]byte(text))
	case strings.Contains(text, "-----BEGIN"):
		return parsePEMKey(text)
	}
	return nil, keyError("this is neither PEM nor JSON; write {file.PATH} with the path of a key in PEM, of a JWK, or of a service account's JSON file")
}

// trimKey takes off what editors put around a text.
func trimKey(text string) string {
	return strings.TrimSpace(strings.TrimPrefix(text, "\xef\xbb\xbf"))
}

var errBrokenJSON = keyError("the JSON is broken, or not whole")

func parseJSONKey(text []byte) (*signingKey, error) {
	var form struct {
		KeyType      string          `json:"kty"`
		Algorithm    string          `json:"alg"`
		Keys         json.RawMessage `json:"keys"`
		PrivateKey   string          `json:"private_key"`
		PrivateKeyID string          `json:"private_key_id"`
		ClientEmail  string          `json:"client_email"`
	}
	if json.Unmarshal(text, &form) != nil {
		return nil, errBrokenJSON
	}
	switch {
	case form.Keys != nil:
		return nil, keyError("this is a set of keys; write the one that is to sign")
	case form.PrivateKey != "":
		key, err := parsePEMKey(form.PrivateKey)
		if err != nil {
			return nil, err
		}
		key.id, key.account = form.PrivateKeyID, form.ClientEmail
		return key, nil
	case form.KeyType == "":
		return nil, keyError("this JSON is neither a JWK (it has no kty) nor a service account's key (it has no private_key)")
	}
	var jwk jose.JSONWebKey
	if err := jwk.UnmarshalJSON(text); err != nil {
		return nil, keyError("the JWK is broken, or not whole")
	}
	if jwk.KeyID != "" && strings.ContainsFunc(jwk.KeyID, isControl) {
		return nil, keyError("the JWK's kid holds control characters")
	}
	key, err := newSigningKey(jwk.Key)
	if err != nil {
		return nil, err
	}
	key.id, key.chain = jwk.KeyID, jwk.Certificates
	if form.Algorithm != "" { // RFC 7517, section 4.4: it is meant for nothing else
		if !slices.Contains(key.algs, form.Algorithm) {
			return nil, keyError("the JWK says alg %q, which does not fit its kty", cut(form.Algorithm, 20))
		}
		key.algs = []string{form.Algorithm}
	}
	return key, nil
}

// minKeySecret is how long the least line or field is that holds a key: 32 bytes in
// base64.
const minKeySecret = 43

// keySecrets returns the parts of a key's text that are secret: what is long, and in
// base64.
func keySecrets(text string) []string {
	parts := strings.FieldsFunc(strings.ReplaceAll(text, `\n`, "\n"), func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("+/-_=", r))
	})
	return slices.DeleteFunc(parts, func(part string) bool { return len(part) < minKeySecret })
}

// accountOf is the service account whose key it is; "": it does not say. Half of a
// file is an error: it would be another's.
func accountOf(text string) (string, error) {
	var form struct {
		ClientEmail string `json:"client_email"`
	}
	text = trimKey(text)
	if strings.HasPrefix(text, "{") && json.Unmarshal([]byte(text), &form) != nil {
		return "", errBrokenJSON
	}
	return form.ClientEmail, nil
}

// parsePEMKey reads the private key, and the certificates, of a PEM text.
func parsePEMKey(text string) (*signingKey, error) {
	if !strings.Contains(text, "\n") { // as a variable of the environment often has it
		text = strings.ReplaceAll(text, `\n`, "\n")
	}
	lines := strings.Split(text, "\n")
	for i, line := range lines { // which a Caddyfile has indented
		lines[i] = strings.TrimSpace(line)
	}
	text = strings.Join(lines, "\n")
	// Two files, one behind the other, whose last newline is gone.
	text = strings.ReplaceAll(text, "----------BEGIN", "-----\n-----BEGIN")
	var key *signingKey
	var chain []*x509.Certificate
	rest, begun := []byte(text), strings.Count(text, "-----BEGIN")
	for ; ; begun-- {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type == "CERTIFICATE" {
			certificate, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, keyError("a certificate in it is broken")
			}
			chain = append(chain, certificate)
			continue
		}
		if block.Type == "EC PARAMETERS" { // openssl's, which the key repeats
			continue
		}
		one, err := parsePEMBlock(block)
		switch {
		case err != nil:
			return nil, err
		case key != nil:
			return nil, keyError("there is more than one private key in it")
		}
		key = one
	}
	switch {
	case begun > 0, bytes.HasPrefix(bytes.TrimSpace(rest), []byte("-")): // what does not end is skipped, be it the certificate of a whole key
		return nil, keyError("the PEM is broken, or not whole")
	case key == nil && len(chain) > 0:
		return nil, keyError("this is a certificate; its private key is needed")
	case key == nil:
		return nil, keyError("there is no private key in it")
	}
	key.chain = chain
	return key, nil
}

func parsePEMBlock(block *pem.Block) (*signingKey, error) {
	var private any
	var err error
	switch {
	case block.Type == "ENCRYPTED PRIVATE KEY" || block.Headers["DEK-Info"] != "":
		return nil, keyError("it is encrypted with a password; decrypt it (openssl pkey -in KEY -out PLAIN) and protect the file instead")
	case block.Type == "OPENSSH PRIVATE KEY":
		return nil, keyError("it is in OpenSSH's own form; convert it: ssh-keygen -p -m PKCS8 -f KEY")
	case strings.HasSuffix(block.Type, "PUBLIC KEY"):
		return nil, keyError("this is the public key; the private one is needed")
	case block.Type == "RSA PRIVATE KEY":
		private, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case block.Type == "EC PRIVATE KEY":
		private, err = x509.ParseECPrivateKey(block.Bytes)
	case block.Type == "PRIVATE KEY":
		private, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	default:
		return nil, keyError("a PEM block of type %q is no private key", cut(block.Type, 40))
	}
	if err != nil {
		return nil, keyError("the %s is broken, or its curve is none of P-256, P-384 and P-521", block.Type)
	}
	return newSigningKey(private)
}

// minRSABits is the least that RFC 7518, section 3.3 allows.
const minRSABits = 2048

func newSigningKey(private any) (*signingKey, error) {
	switch private := private.(type) {
	case *rsa.PrivateKey:
		if private.N.BitLen() < minRSABits {
			return nil, keyError("an RSA key of %d bits is too short; %d are the least (RFC 7518, section 3.3)", private.N.BitLen(), minRSABits)
		}
		if err := private.Validate(); err != nil {
			return nil, keyError("the RSA key is broken")
		}
		return &signingKey{private: private, algs: []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}}, nil
	case *ecdsa.PrivateKey:
		alg, known := map[string]string{"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}[private.Curve.Params().Name]
		if !known {
			return nil, keyError("the curve %s has no signing algorithm; there are P-256, P-384, P-521 and Ed25519", private.Curve.Params().Name)
		}
		if !isOneKey(private) {
			return nil, keyError("the key is broken: its public half belongs to another key")
		}
		return &signingKey{private: private, algs: []string{alg}}, nil
	case ed25519.PrivateKey:
		return &signingKey{private: private, algs: []string{"EdDSA"}}, nil
	case []byte:
		return nil, keyError("this is a shared secret (kty oct); a provider that knows it wants client_secret with client_auth client_secret_jwt")
	case *rsa.PublicKey, *ecdsa.PublicKey, ed25519.PublicKey:
		return nil, keyError("this is the public key; the private one is needed")
	}
	return nil, keyError("a key of this kind cannot sign; there are RSA, P-256, P-384, P-521 and Ed25519")
}

// isOneKey says whether the halves of a key belong together. A JWK has both, and
// where they do not, nobody could verify what it signs.
func isOneKey(key *ecdsa.PrivateKey) bool {
	private, err := key.ECDH()
	if err != nil {
		return false
	}
	public, err := key.PublicKey.ECDH()
	return err == nil && private.PublicKey().Equal(public)
}

// algorithm returns the algorithm to sign with. One that does not fit the key is
// an error: the key of another kind would be taken for something that it is not.
func (k *signingKey) algorithm(wanted string) (string, error) {
	switch {
	case wanted == "":
		return k.algs[0], nil
	case !slices.Contains(k.algs, wanted):
		return "", fmt.Errorf("signing_alg: %s does not fit the private key, with which there is %s", wanted, strings.Join(k.algs, ", "))
	}
	return wanted, nil
}

// header returns what a JWT's header says of the key (RFC 7515, sections 4.1.4,
// 4.1.6 and 4.1.8).
func (k *signingKey) header(id string, now time.Time) (map[string]any, error) {
	header := map[string]any{"typ": "JWT"}
	if id == "" {
		id = k.id
	}
	if id != "" {
		header["kid"] = id
	}
	if len(k.chain) == 0 {
		return header, nil
	}
	leaf := k.chain[0]
	public, comparable := k.private.Public().(interface{ Equal(crypto.PublicKey) bool })
	switch {
	case !comparable || !public.Equal(leaf.PublicKey):
		return nil, keyError("the certificate that stands with it belongs to another key")
	case now.After(leaf.NotAfter):
		return nil, keyError("the certificate that stands with it ended on %s", leaf.NotAfter.UTC().Format(time.DateTime))
	case now.Before(leaf.NotBefore):
		return nil, tooEarly{keyError("the certificate that stands with it begins on %s", leaf.NotBefore.UTC().Format(time.DateTime)), leaf.NotBefore}
	}
	x5c := make([]string, len(k.chain))
	for i, certificate := range k.chain {
		x5c[i] = base64.StdEncoding.EncodeToString(certificate.Raw)
	}
	thumbprint := sha256.Sum256(leaf.Raw)
	header["x5c"], header["x5t#S256"] = x5c, base64.RawURLEncoding.EncodeToString(thumbprint[:])
	return header, nil
}

// signJWT returns a signed JWT. It signs with nothing but the algorithm that is
// named, whatever the key.
func signJWT(alg string, key any, header map[string]any, claims any) (string, error) {
	options := new(jose.SignerOptions)
	for name, value := range header {
		options = options.WithHeader(jose.HeaderKey(name), value)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.SignatureAlgorithm(alg), Key: key}, options)
	if err != nil {
		return "", errors.New("signing_alg: the key cannot sign with " + alg)
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", err
	}
	signed, err := signer.Sign(bytes.TrimSpace(payload))
	if err != nil {
		return "", errors.New("signing_alg: signing with " + alg + " failed")
	}
	return signed.CompactSerialize()
}
