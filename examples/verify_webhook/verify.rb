# Verify a webhook: verify.rb SECRET ID TIMESTAMP SIGNATURE < BODY prints `verified`, or fails.

require "openssl"

def verify(secret, headers, body)
  id, timestamp = headers.fetch("webhook-id"), headers.fetch("webhook-timestamp")
  if (Time.now.to_i - Integer(timestamp, 10)).abs > 300
    raise "the attempt is too old, or the clocks differ"
  end
  key = secret.delete_prefix("whsec_").unpack1("m0")
  digest = OpenSSL::HMAC.digest("SHA256", key, "#{id}.#{timestamp}.".b + body.b)
  expected = "v1," + [digest].pack("m0")
  given = headers.fetch("webhook-signature").split(" ")
  fits = given.map { |each| OpenSSL.secure_compare(each, expected) }
  raise "no signature fits" unless fits.any?
end

secret, id, timestamp, signature = ARGV
headers = { "webhook-id" => id, "webhook-timestamp" => timestamp, "webhook-signature" => signature }
verify(secret, headers, $stdin.binmode.read)
puts "verified"
